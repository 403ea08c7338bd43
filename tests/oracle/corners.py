"""Rarer constructs of generated statements: window frames, rows as values, functions and set operations in FROM.

All are deterministic: what a frame counts or sums is the same for rows that its order does not tell apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.oracle.stock import VIEWS, Col, Scope
from tests.oracle.trees import Form, Node, Text

_BOUNDS = ("unbounded preceding", "{} preceding", "current row", "{} following", "unbounded following")
_RECURSIVE = (
    "{name}(login, boss, depth) as (select login, boss, 1 from people where {start} union all "
    "select p.login, p.boss, b.depth + 1 from people p join {name} b on {step} where b.depth < 4)",
    "{name}(login, boss, depth) as (select login, boss, 1 from people where {start} union "
    "select p.login, p.boss, 1 from {name} b, people p where {step})",
    "{name}(login, boss, depth) as (select login, boss, 1 from people where {start} union all "
    "select b.login, p.boss, b.depth + 1 from {name} b join people p on p.login = b.login where b.depth < 3)",
    "{name}(login, boss, depth) as (select login, boss, 1 from people where {start} union "
    "select login, b.boss, b.depth + l.n % 2 from {name} b join logins l using (login) where b.depth < 3)",
    "{name}(login, boss, depth) as (select login, boss, 1 from people where {start} union all "
    "select b.boss, b.login, b.depth + 1 from {name} b where b.depth < 3)",
)
#: Numbers, lists and records made of nothing, or of what stands to the left.
_SERIES = ("generate_series(1, 9)", "generate_series(9, -3, -4)", "unnest(array[1, 7, null, 39])")


class Dice:
    """Pieces of chance by a seed."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._names = 0

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def one(self, things: Sequence[Any]) -> Any:
        return self.random.choice(list(things))

    def weighted(self, weights: dict[Any, float]) -> Any:
        return self.random.choices(list(weights), list(weights.values()))[0]

    def name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"


class Corners(Dice):
    """The constructs that need no more than the columns in sight."""

    def window(self, scope: Scope) -> Node:
        """A window function with a frame, or one over peers."""
        order = self.one([column for column in scope.columns if column.kind != "json"] or scope.columns)
        part = self.one(scope.columns)
        function = self.one(["rank()", "dense_rank()", "count(*)", f"count({part.ref})"])
        form = self.one(["(partition by {p} order by {o})", "(order by {o} desc)", "(partition by {p})", "({f})"])
        if form == "({f})":
            form, function = self._framed(scope, order)
        elif "order" not in form and "rank" in function:
            form = "(order by {o})"
        partition = self.one([column for column in scope.columns if column.kind != "json"] or [part])
        return Text(f"{function} over {form.format(p=partition.ref, o=order.ref)}", ("1",))

    def _framed(self, scope: Scope, order: Col) -> tuple[str, str]:
        """Return a window whose frame is of whole groups of peers, and what is computed over it."""
        numbers = [column for column in scope.columns if column.kind in ("int", "small", "number")]
        functions = ["count(*)", "first_value({o})", "last_value({o})", "min({n})", "max({n})", "sum({n})", "avg({n})"]
        function = self.one(functions if numbers else functions[:3])
        if numbers:
            number = self.one(numbers).ref
            function = function.replace("{n}", f"trim_scale({number}::numeric)")
        mode = "range" if order.kind in ("int", "number", "small") and self.chance(0.5) else "groups"
        start = self.random.randint(0, 3)
        end = self.random.randint(max(start, 1), 4)
        if start == 3 and end == 3:
            end = 4
        bounds = [_BOUNDS[place].format(self.random.randint(0, 4)) for place in (start, end)]
        if start == end:
            bounds = [_BOUNDS[start].format(4 if start == 1 else 0), _BOUNDS[end].format(1 if start == 1 else 5)]
        exclude = self.weighted({"": 4, " exclude group": 1, " exclude no others": 0.5})
        partition = "partition by {p} " if self.chance(0.5) else ""
        frame = f"({partition}order by {{o}} {mode} between {bounds[0]} and {bounds[1]}{exclude})"
        # Peers may differ in how a number is written, and which of them is the last is open.
        shown = f"trim_scale({order.ref}::numeric)" if order.kind == "number" else order.ref
        return frame, function.replace("{o}", shown)

    def row_condition(self, scope: Scope) -> Node:
        """A comparison of rows, or of a row with a list of rows."""
        left = [column for column in scope.columns if column.kind in ("int", "text", "date")]
        if len(left) < 2:
            return Text("true")
        a, b = self.random.sample(left, 2)
        values = {"int": ("7", "3", "null", "20"), "text": ("'apple'", "'de'", "''", "null"), "date": ("'2024-02-05'",)}
        rows = [f"({self.one(values[a.kind])}, {self.one(values[b.kind])})" for _ in range(3)]
        form = self.weighted({"=": 2, "<": 1, ">=": 1, "in": 2, "not in": 1, "is distinct from": 1, "null": 1})
        if form == "null":
            return Text(f"row({a.ref}, {b.ref}) is {self.one(['null', 'not null'])}", ("true",))
        right = f"({', '.join(rows)})" if form.endswith("in") else f"row{rows[0]}"
        return Text(f"({a.ref}, {b.ref}) {form} {right}", ("true",))

    def guarded(self, scope: Scope) -> Node:
        """A division that CASE keeps from failing."""
        numbers = [column.ref for column in scope.columns if column.kind in ("int", "small")]
        if not numbers:
            return Text("true")
        ref = self.one(numbers)
        return Text(f"case when {ref} <> 0 then 100 / {ref} > 3 else {self.one(['true', 'false', 'null'])} end")

    def series(self, alias: str) -> tuple[Node, list[Col]]:
        """A set of numbers in FROM."""
        form = self.one(_SERIES)
        if self.chance(0.3):
            ordinal = Col(f"{alias}.place", "int", "place")
            return Text(f"{form} with ordinality {alias}(n, place)"), [Col(f"{alias}.n", "int", "n"), ordinal]
        return Text(f"{form} {alias}(n)"), [Col(f"{alias}.n", "int", "n")]

    def elements(self, left: Node, scope: Scope, alias: str) -> Node | None:
        """Join the elements of an array, or the pairs of an object, of what stands to the left."""
        arrays = [column for column in scope.columns if column.kind in ("array", "texts") and "." in column.ref]
        objects = [column for column in scope.columns if column.kind == "json" and column.name in ("attrs", "profile")]
        if not arrays and not objects:
            return None
        column = self.one(arrays + objects)
        if column.kind == "json":
            call, columns = f"jsonb_each_text({column.ref}) {alias}(word, other)", ("word", "other")
            found = [Col(f"{alias}.{name}", "text", name) for name in columns]
        else:
            kind = "int" if column.kind == "array" else "text"
            call, found = f"unnest({column.ref}) {alias}(x)", [Col(f"{alias}.x", kind, "x")]
        scope.columns += found
        scope.rows *= 3
        form = self.one(
            ["({0} cross join lateral {1})", "({0} left join lateral {1} on true)", "({0} left join {1} on true)"]
        )
        if "left" in form:
            scope.supplied += found
        return Form(form, (left, Text(call)), (0,))

    def view(self, alias: str) -> tuple[Node, list[Col]]:
        """A view of `dataset`, of groups, windows, limits or joins."""
        name = self.one(sorted(VIEWS))
        columns = [Col(f"{alias}.{c}", kind, c, c in ("customer_id", "login")) for c, kind in VIEWS[name]]
        return Text(f"{self.one(['', '', 'shop.'])}{name} {alias}"), columns

    def recursive(self, name: str) -> Node:
        """A recursive CTE over people and their bosses."""
        start = self.one(["boss is null", "login = 'user1'", "customer_id < 4", "true"])
        step = self.one(["p.boss = b.login", "p.login = b.boss"])
        return Text(self.one(_RECURSIVE).format(name=name, start=start, step=step))
