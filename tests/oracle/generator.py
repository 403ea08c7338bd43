"""Random SELECTs over the tables of `dataset`, by seed, and shrinking of those that are answered wrongly.

A statement is a tree of nodes that can be written as text and made smaller. What is generated is deterministic in its
answer: sorted results are sorted by every output column, inner LIMITs by what they return, windows are over peers.
"""

from __future__ import annotations

import datetime
import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tests.oracle import dataset
from tests.oracle.corners import Corners
from tests.oracle.stock import SIZES, TABLES, UNSCALED, VARIANCES, WORDS, Col, Scope, key_kind, keys_of
from tests.oracle.trees import Form, Node, Select, Seq, SetOperation, Text


class Generator(Corners):
    """Makes statements from a seed. `params` are the parameters of the statement that was made last."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.seed = seed
        self.params: dict[str, Any] = {}
        self._ctes: dict[str, list[tuple[str, str]]] = {}
        #: Only tables and their joins, no subqueries: what a pushdown should answer.
        self._plainly = False
        #: Most tables are pinned to one key, or joined with one that is.
        self._pinned = False

    def statement(self) -> Node:
        self.params = {}
        self._names = 0
        self._ctes = {}
        self._plainly = self.chance(0.5)
        self._pinned = self.chance(0.3)
        if self._plainly:
            return self._sorted(self._select(Scope(), depth=1)[0])
        if self.chance(0.12):
            return self._set_operation()
        ctes = [self._cte() for _ in range(self.weighted({0: 6, 1: 2, 2: 1}))]
        recursive = self.chance(0.04)
        if recursive:
            name = self.name("w")
            ctes.append(self.recursive(name))
            self._ctes[name] = [("login", "text"), ("boss", "text"), ("depth", "int")]
        select, _ = self._select(Scope(), depth=0)
        return replace(self._sorted(select), ctes=Seq("with recursive " if recursive else "with ", ", ", tuple(ctes)))

    def spell(self, node: Node) -> str:
        """Return the node's text, for some seeds with comments, line breaks and capitals strewn in."""
        rng = random.Random(f"spelling of {self.seed}")
        return node.sql() if rng.random() < 0.8 else _strewn(node.sql(), rng)

    # -- statements

    def _cte(self) -> Node:
        shadow = self.chance(0.15)
        name = self.one(["orders", "items", "country", "short"]) if shadow else self.name("w")
        select, columns = self._select(Scope(), depth=2)
        hint = self.weighted({"": 6, "materialized ": 1, "not materialized ": 1})
        self._ctes[name] = columns
        listed = ", ".join(column for column, _ in columns)
        return Form(f"{name}({listed}) as {hint}({{0}})", (select,))

    def _set_operation(self) -> Node:
        kinds = [self.weighted({"int": 4, "text": 3, "date": 1, "number": 1}) for _ in range(self.random.randint(1, 2))]
        order, limit = self._order()
        return replace(self._union(kinds), order=order, limit=limit)

    def _union(self, kinds: Sequence[str]) -> SetOperation:
        """A set operation whose branches may be sorted and cut, or set operations themselves."""
        left = self._select_of(kinds)
        if self.chance(0.3):
            left = replace(left, order=("", " desc"), limit=f" limit {self.one([1, 3, 7])}")
        right: Node = self._union(kinds) if self.chance(0.2) else self._select_of(kinds)
        operator = self.one(["union", "union all", "intersect", "except", "union all", "except all", "intersect all"])
        return SetOperation(left, right, operator)

    def _with_ties(self, alias: str) -> tuple[Node, list[Col]]:
        """The first rows of a table by one column, with those that are like the last of them."""
        inner = Scope()
        source, found = self._table(self.name("t"), inner)
        sortable = [column for column in found if column.kind not in ("json", "bytes")]
        order, other = self.one(sortable), self.one(sortable)
        tail = f"order by {order.ref}{self.one(['', ' desc', ' nulls first'])}"
        fetch = f"fetch first {self.random.randint(1, 9)} rows with ties"
        shown = [f"{it.ref} as k{place}" for place, it in enumerate((order, other))]
        select = Form(
            f"(select {', '.join(shown)} from {{0}}{{1}} {tail} {fetch}) {alias}", (source, self._where(inner, 3))
        )
        return select, [Col(f"{alias}.k{place}", it.kind, f"k{place}") for place, it in enumerate((order, other))]

    def _select_of(self, kinds: Sequence[str]) -> Select:
        scope = Scope()
        source = self._source(scope, depth=1)
        targets = tuple(
            Form("{0} as " + f"c{place}", (self._value(kind, scope, 1),)) for place, kind in enumerate(kinds)
        )
        return Select(Seq("", ", ", targets, 1), source, self._where(scope, 1))

    def _sorted(self, select: Select) -> Select:
        order, limit = self._order()
        if not order and not select.distinct_on:
            return replace(select, first=Seq("", ", "), limit=limit)
        return replace(select, order=order or ("",), limit=limit)

    def _order(self) -> tuple[tuple[str, ...], str]:
        order = tuple(self.one(["", " desc", " nulls first", " desc nulls last"]) for _ in range(3))
        if self.chance(0.35):
            order = ()
        limit = ""
        if self.chance(0.6 if order else 0.2):
            limit += f" limit {self._number_of(self.one([0, 1, 2, 3, 5, 10, 50, None]))}"
        if self.chance(0.35 if order else 0.1):
            limit += f" offset {self._number_of(self.one([0, 1, 2, 7, 20, 300, None]))}"
        return order, limit

    def _number_of(self, number: int | None) -> str:
        if self.chance(0.3):
            return self._param(number)
        return "null" if number is None else str(number)

    def _select(self, enclosing: Scope, depth: int, scope: Scope | None = None) -> tuple[Select, list[tuple[str, str]]]:
        """Return a SELECT and its output columns as (name, kind). *scope* is filled if given."""
        scope = scope or Scope()
        scope.outer = enclosing.outer + enclosing.columns
        source = self._source(scope, depth)
        where = self._where(scope, depth)
        if self.chance(0.4):
            select, columns = self._grouped(scope, source, where, depth)
        else:
            select, columns = self._plain(scope, source, where, depth)
        return select, columns

    def _plain(self, scope: Scope, source: Node, where: Seq, depth: int) -> tuple[Select, list[tuple[str, str]]]:
        targets, columns = [], []
        for _ in range(self.random.randint(1, 4)):
            if self.chance(0.03 if self._plainly else 0.1) and scope.rows < 3000:
                kind, value = "int", self.window(scope)
            else:
                kind = self.one(scope.columns).kind if scope.columns and self.chance(0.8) else "int"
                value = self._value(kind, scope, depth)
            name = self._alias(scope, columns)
            targets.append(Form(f"{{0}} as {name}", (value,)))
            columns.append((name, kind))
        distinct = "distinct " if self.chance(0.03 if self._plainly else 0.12) else ""
        on = not distinct and depth == 0 and self.chance(0.04)
        first: tuple[Node, ...] = ()
        if not distinct and not on and self.chance(0.3):
            first = (self._value(self.one(["int", "text", "number", "date"]), scope, depth),)
            if isinstance(first[0], Text) and not first[0].text[0].isalpha():
                first = ()
        select = Select(
            Seq("", ", ", tuple(targets), 1),
            source,
            where,
            distinct=distinct,
            distinct_on=on,
            first=Seq("", ", ", first),
            order=("",) if on else (),
        )
        return select, columns

    def _grouped(self, scope: Scope, source: Node, where: Seq, depth: int) -> tuple[Select, list[tuple[str, str]]]:
        groups: list[tuple[Node, str]] = []
        for _ in range(self.weighted({0: 2, 1: 5, 2: 2})):
            keys = [column for column in scope.columns if column.key]
            if keys and self.chance(0.3):
                groups.append((Text(self.one(keys).ref), "int"))
                groups[-1] = (groups[-1][0], next(c.kind for c in keys if c.ref == groups[-1][0].sql()))
            elif scope.columns:
                kind = self.one(scope.columns).kind
                value = self._value(kind, scope, 3)
                if any(column.ref in value.sql() for column in scope.columns):
                    groups.append((value, kind))
        targets: list[Node] = []
        columns: list[tuple[str, str]] = []
        shown = [group for group in groups if self.chance(0.85)]
        spelled: dict[int, Node] = {}
        for node, kind in shown:
            name = self._alias(scope, columns)
            place = len(targets) + 1
            targets.append(Form(f"{{0}} as {name}", (node,)))
            columns.append((name, kind))
            if self.chance(0.2):
                spelled[groups.index((node, kind))] = Text(str(place))
        for _ in range(self.random.randint(0 if targets else 1, 3)):
            value, kind = self._aggregate(scope)
            name = self._alias(scope, columns)
            targets.append(Form(f"{{0}} as {name}", (value,)))
            columns.append((name, kind))
        group = tuple(spelled.get(place, node) for place, (node, _) in enumerate(groups))
        having: tuple[Node, ...] = ()
        if self.chance(0.3):
            having = (self._having(scope, groups),)
        first: tuple[Node, ...] = ()
        if self.chance(0.2):
            value, kind = self._aggregate(scope)
            # The last digits of a floating sum decide nothing.
            first = () if kind == "float" else (value,)
        styles = {"": 12, "rollup({0}, {1})": 1, "cube({0}, {1})": 1, "grouping sets(({0}, {1}), ({1}), ())": 1}
        style = self.weighted(styles) if len(group) > 1 and not spelled else ""
        grouping = (Form(style, group[:2]), *group[2:]) if style else group
        select = Select(
            Seq("", ", ", tuple(targets), 1),
            source,
            where,
            Seq(" group by ", ", ", grouping),
            Seq(" having ", " and ", having),
            first=Seq("", ", ", first),
            distinct="distinct " if not first and self.chance(0.05) else "",
        )
        return select, columns

    def _alias(self, scope: Scope, taken: Sequence[tuple[str, str]]) -> str:
        """Names of input columns are likely: they are what a planner mixes up."""
        names = [column.name for column in scope.columns if column.name.isidentifier() and column.name.islower()]
        used = {name for name, _ in taken}
        name = self.one(names) if names and self.chance(0.3) else ""
        return name if name and name not in used else self.name("c")

    # -- FROM

    def _source(self, scope: Scope, depth: int) -> Node:
        count = self.weighted({1: 5, 2: 5, 3: 2} if depth < 2 else {1: 8, 2: 2})
        node, _ = self._item(scope, depth)
        for _ in range(count - 1):
            node = self._join(node, scope, depth)
        return Seq(" from ", ", ", (node,), 1)

    def _item(self, scope: Scope, depth: int) -> tuple[Node, list[Col]]:
        nested = depth < 2
        weights = {"table": 14, "cte": 4 if self._ctes else 0, "subquery": 2 if nested else 0, "values": 0.7}
        weights |= {"series": 0.7, "view": 1, "union": 0.8 if nested else 0, "ties": 0.5 if nested else 0}
        kind = "table" if self._plainly else self.weighted(weights)
        alias = self.name("t")
        if kind == "cte":
            name = self.one(sorted(self._ctes))
            columns = [Col(f"{alias}.{column}", k, column) for column, k in self._ctes[name]]
            node: Node = Text(f"{name} {alias}")
            scope.rows *= 30
        elif kind == "subquery":
            inner = Scope()
            select, outputs = self._select(Scope(), depth + 1, inner)
            columns = [Col(f"{alias}.{column}", k, column) for column, k in outputs]
            node = Form(f"({{0}}) {alias}", (select,))
            scope.rows *= max(inner.rows, 1)
        elif kind == "values":
            columns = [Col(f"{alias}.k", "int", "k"), Col(f"{alias}.word", "text", "word")]
            node = Text(f"(values (7, 'apple'), (3, 'de'), (99, null)) {alias}(k, word)")
            scope.rows *= 3
        elif kind == "series":
            node, columns = self.series(alias)
            scope.rows *= 9
        elif kind == "view":
            node, columns = self.view(alias)
            scope.rows *= 60
        elif kind == "union":
            kinds = [self.weighted({"int": 4, "text": 3, "date": 1}) for _ in range(self.random.randint(1, 2))]
            node = Form(f"({{0}}) {alias}", (self._union(kinds),))
            columns = [Col(f"{alias}.c{place}", k, f"c{place}") for place, k in enumerate(kinds)]
            scope.rows *= 100
        elif kind == "ties":
            node, columns = self._with_ties(alias)
            scope.rows *= 30
        else:
            node, columns = self._table(alias, scope)
        scope.columns += columns
        return node, columns

    def _table(self, alias: str, scope: Scope) -> tuple[Node, list[Col]]:
        weights = dict.fromkeys(TABLES, 1.0) | {"orders": 6.0, "items": 3.0, "customers": 3.0, "country": 2.0}
        family = {column.kind for column in scope.columns + scope.outer if column.key} & {"int", "small", "text"}
        if family and self.chance(0.75):
            same = {"int": "int", "small": "int", "text": "text"}
            wanted = same[self.one(sorted(family))]
            weights = {name: weight for name, weight in weights.items() if same.get(key_kind(name), "") == wanted}
        if scope.rows > 200:
            weights = {name: weight for name, weight in weights.items() if SIZES.get(name, 30) <= 40}
        name = self.weighted(weights)
        while name in self._ctes:
            name = self.one(sorted(TABLES))
        quoted = f'"{name}"' if " " in name else name
        scope.rows *= max(SIZES.get(name, 25), 1)
        spelled = f"shop.{quoted}" if self.chance(0.08) else quoted
        taken = {column.ref.split(".")[0] for column in scope.columns}
        bare = self.chance(0.12) and quoted not in taken
        keys = keys_of(name)
        columns = []
        names = [column for column, _ in TABLES[name]]
        renamed = {}
        if not bare and self.chance(0.05):
            # Names that belong to other columns of the same table.
            renamed = dict(zip(names[:2], (names[1], names[0]), strict=False)) if len(names) > 1 else {}
        for column, kind in TABLES[name]:
            shown = renamed.get(column, column)
            columns.append(Col(f"{quoted if bare else alias}.{shown}", kind, shown, column in keys))
        if renamed:
            return Text(f"{spelled} as {alias}({', '.join(renamed[name] for name in names[:2])})"), columns
        return Text(spelled if bare else f"{spelled} {alias}"), columns

    def _join(self, left: Node, scope: Scope, depth: int) -> Node:
        before = [column for column in scope.columns if "." in column.ref]
        if depth < 2 and not self._plainly and self.chance(0.08):
            return self._lateral(left, scope, depth)
        if not self._plainly and self.chance(0.06) and scope.rows < 6000:
            elements = self.elements(left, scope, self.name("t"))
            if elements is not None:
                return elements
        rows = scope.rows
        if len(before) and self.chance(0.1):
            merged = self._using(left, scope)
            if merged is not None:
                return merged
        right, added = self._item(scope, depth)
        kind = self.weighted({"join": 6, "left join": 5, "right join": 2, "full join": 1.5, ",": 1, "cross join": 0.7})
        equal = self._equality(before, added)
        tight = scope.rows > 6000
        if kind in (",", "cross join") and (tight or equal is None):
            kind = "join"
        if kind == "cross join":
            return Form("({0} cross join {1})", (left, right), (0, 1))
        if kind in ("left join", "full join"):
            scope.supplied += added
        if kind in ("right join", "full join"):
            scope.supplied += before
        conditions: list[Node] = []
        if equal is not None and (tight or self.chance(0.85)):
            conditions.append(equal)
            scope.rows = max(rows * 4, 200)
        if equal is None and tight:
            kind, conditions = "join", [Text("false")]
        if self.chance(0.3):
            conditions.append(self._condition(Scope(columns=before + added, outer=scope.outer), depth + 1))
        if not conditions:
            conditions.append(Text("true"))
        if kind == ",":
            return Form("({0} join {1} on {2})", (left, right, Seq("", " and ", tuple(conditions), 1)), (0, 1))
        return Form(f"({{0}} {kind} {{1}} on {{2}})", (left, right, Seq("", " and ", tuple(conditions), 1)), (0, 1))

    def _using(self, left: Node, scope: Scope) -> Node | None:
        """Join one more table by USING or NATURAL, when the names allow it."""
        alias = self.name("t")
        name = self.one(["short", "tiny", "lone", "nothing", "people", "logins", "balances", "country"])
        if name in self._ctes or scope.rows > 6000:
            return None
        columns = [Col(f"{alias}.{column}", kind, column, column in keys_of(name)) for column, kind in TABLES[name]]
        lefts = [column.name for column in scope.columns]
        common = [column for column in columns if lefts.count(column.name) == 1]
        if not common:
            return None
        shared = common if name == "balances" or self.chance(0.2) else common[:1]
        kind = self.one(["join", "left join", "right join", "full join", "join"])
        scope.rows = max(scope.rows * 4, 200)
        scope.columns += columns
        for column in shared:
            scope.columns.append(Col(column.name, "int" if column.kind == "small" else column.kind, column.name))
        if len(shared) == len(common) and len(set(lefts)) == len(lefts) and self.chance(0.5):
            return Form(f"({{0}} natural {kind} {name} {alias})", (left,), (0,))
        return Form(f"({{0}} {kind} {name} {alias} using ({', '.join(c.name for c in shared)}))", (left,), (0,))

    def _equality(self, left: Sequence[Col], right: Sequence[Col]) -> Node | None:
        """Mostly the partition keys, sometimes any columns of the same kind."""
        keys = [(a, b) for a in left for b in right if a.key and b.key and self._alike(a, b)]
        plain = [(a, b) for a in left for b in right if a.kind == b.kind and a.kind in ("int", "text", "date", "mood")]
        by_name = [(a, b) for a, b in plain if a.name == b.name]
        pairs = keys if keys and self.chance(0.75) else by_name if by_name and self.chance(0.7) else plain
        if not pairs:
            return None
        a, b = self.one(pairs)
        if self.chance(0.5):
            a, b = b, a
        conditions: list[Node] = [Text(f"{a.ref} = {b.ref}")]
        for name in ("order_id", "account", "line"):
            more = [
                (x, y) for x in left for y in right if name in (x.name, y.name) and {x.name, y.name} <= {name, "id"}
            ]
            if more and self.chance(0.8):
                conditions.append(Text(f"{more[0][0].ref} = {more[0][1].ref}"))
        if self.chance(0.05):
            return Form("({0})", (Seq("", " or ", tuple(conditions), 1),))
        return Seq("", " and ", tuple(conditions), 1)

    def _alike(self, a: Col, b: Col) -> bool:
        return a.kind == b.kind or {a.kind, b.kind} == {"int", "small"}

    def _lateral(self, left: Node, scope: Scope, depth: int) -> Node:
        alias = self.name("t")
        inner = Scope(outer=scope.outer + scope.columns)
        item, _ = self._item(inner, 2)
        where = self._where(inner, depth + 1)
        if self.chance(0.4):
            value, kind = self._aggregate(inner)
            scope.columns.append(Col(f"{alias}.x", kind, "x"))
            select = Form("(select {0} as x from {1}{2})", (value, item, where))
            form = self.one(
                ["({0} cross join lateral {1} {2})", "({0} left join lateral {1} {2} on {2}.x is not null)"]
            )
            return Form(form, (left, select, Text(alias)), (0,))
        kind = self.one(["int", "text"])
        value = self._value(kind, inner, 3)
        limit = self.random.randint(1, 3)
        select = Form(f"(select {{0}} as x from {{1}}{{2}} order by 1 limit {limit})", (value, item, where))
        scope.columns.append(Col(f"{alias}.x", kind, "x"))
        scope.rows *= limit
        form = self.one(["({0} cross join lateral {1} {2})", "({0} left join lateral {1} {2} on true)"])
        return Form(form, (left, select, Text(alias)), (0,))

    # -- conditions

    def _where(self, scope: Scope, depth: int) -> Seq:
        count = self.weighted({0: 4, 1: 4, 2: 1.5, 3: 0.3})
        conditions = self._pins(scope) if self._pinned else []
        keys = [column for column in scope.columns if column.key]
        outer = [column for column in scope.outer if column.key]
        if keys and outer and self.chance(0.5):
            pairs = [(a, b) for a in keys for b in outer if self._alike(a, b)]
            conditions += [Text(f"{a.ref} = {b.ref}") for a, b in self.random.sample(pairs, min(1, len(pairs)))]
        if scope.supplied and self.chance(0.35):
            conditions.append(self._on_supplied(scope))
        conditions += [self._condition(scope, depth) for _ in range(count)]
        return Seq(" where ", " and ", tuple(conditions))

    def _on_supplied(self, scope: Scope) -> Node:
        """A condition on the side that an outer join may have filled with NULLs, strict or not."""
        column = self.one(scope.supplied)
        form = self.one(["{0} is null", "{0} is not null", "{1} is not true", "({0} is null or {1})", "{1}", "not {1}"])
        return Text(form.format(column.ref, f"({self._comparison(column, scope).sql()})"), ("true",))

    def _pins(self, scope: Scope) -> list[Node]:
        """Pin key columns to the heavy customer, or to each other."""
        keys = [column for column in scope.columns if column.key and column.kind in ("int", "small")]
        found: list[Node] = []
        for place, column in enumerate(keys):
            if place and self.chance(0.5):
                found.append(Text(f"{self.one(keys[:place]).ref} = {column.ref}"))
            elif self.chance(0.7):
                found.append(Text(f"{column.ref} = {self.one([7, 7, 7, 3])}"))
        return found

    def _condition(self, scope: Scope, depth: int) -> Node:
        nested = depth < 2 and not self._plainly
        kind = self.weighted(
            {
                "key": 4 if any(column.key for column in scope.columns) else 0,
                "compare": 6,
                "null": 2,
                "or": 1.5,
                "not": 0.8,
                "columns": 1.2,
                "exists": 1 if nested else 0,
                "in": 1 if nested else 0,
                "scalar": 0.6 if nested else 0,
                "outer": 4 if scope.outer else 0,
                "truth": 0.4,
                "rows": 0.5,
                "guarded": 0.3,
            }
        )
        if not scope.columns:
            return Text("true")
        if kind == "key":
            return self._key_condition(self.one([column for column in scope.columns if column.key]))
        if kind == "null":
            column = self.one(scope.columns)
            return Text(f"{column.ref} is {self.one(['null', 'not null'])}", ("true",))
        if kind == "or":
            parts = (self._condition(scope, depth + 1), self._condition(scope, depth + 1))
            return Form("({0} or {1})", parts, (0, 1))
        if kind == "not":
            return Form("not ({0})", (self._condition(scope, depth + 1),), (0,))
        if kind in ("columns", "outer"):
            return self._column_condition(scope, kind == "outer")
        if kind == "exists":
            select, _ = self._select(scope, depth + 2)
            return Form(self.one(["exists ({0})", "not exists ({0})"]), (select,))
        if kind == "in":
            return self._in_subquery(scope, depth)
        if kind == "scalar":
            column = self.one(scope.columns)
            wanted = "int" if column.kind not in ("text", "date", "number") else column.kind
            left = column.ref if wanted == column.kind else "5"
            return Form(f"{left} {self.one(['=', '<', '>=', '<>'])} {{0}}", (self._scalar(wanted, scope, depth),))
        if kind == "rows":
            return self.row_condition(scope)
        if kind == "guarded":
            return self.guarded(scope)
        if kind == "truth":
            return Form(
                self.one(["({0}) is not true", "({0}) is null", "coalesce({0}, false)", "({0}) = true"]),
                (self._condition(scope, depth + 1),),
                (0,),
            )
        return self._comparison(self.one(scope.columns), scope)

    def _column_condition(self, scope: Scope, outer: bool) -> Node:
        left = self.one(scope.columns)
        others = [column for column in (scope.outer if outer else scope.columns) if self._alike(column, left)]
        named = [column for column in others if column.name == left.name or (column.key and left.key)]
        if not others or left.kind in ("json",):
            return Text("true")
        right = self.one(named if named and self.chance(0.7) else others)
        operator = self.weighted({"=": 6, "<": 1, "<>": 1, ">=": 1, "is not distinct from": 1})
        return Text(f"{left.ref} {operator} {right.ref}", ("true",))

    def _in_subquery(self, scope: Scope, depth: int) -> Node:
        columns = [column for column in scope.columns if column.kind in ("int", "text", "date")]
        if not columns:
            return Text("true")
        column = self.one(columns)
        inner = Scope(outer=scope.outer + scope.columns)
        item, added = self._item(inner, 2)
        same = [other for other in added if other.kind == column.kind]
        if not same:
            return Text("true")
        keyed = [other for other in same if other.name == column.name or (other.key and column.key)]
        value = self.one(keyed if keyed and self.chance(0.6) else same)
        operator = self.weighted({"in": 6, "not in": 2, "= any": 1, "<> all": 1})
        where = self._where(inner, depth + 2)
        return Form(f"{column.ref} {operator} (select {value.ref} from {{0}}{{1}})", (item, where))

    def _scalar(self, kind: str, scope: Scope, depth: int) -> Node:
        inner = Scope(outer=scope.outer + scope.columns)
        item, _ = self._item(inner, 2)
        where = self._where(inner, depth + 2)
        value = self._value(kind, inner, 3)
        if kind == "int" and self.chance(0.4):
            return Form("(select count(*) from {0}{1})", (item, where))
        return Form(f"(select {self.one(['min', 'max'])}({{0}}) from {{1}}{{2}})", (value, item, where))

    def _key_condition(self, column: Col) -> Node:
        ref, value = column.ref, self._key_literal(column.kind)
        form = self.weighted({"=": 5, "swap": 1, "in": 4, "any": 2, "not in": 0.6, "<>": 0.8, "cast": 0.8, ">": 1.5})
        if form == "swap":
            return Text(f"{value} = {ref}", ("true",))
        if form in ("in", "not in"):
            values = [self._key_literal(column.kind) for _ in range(self.random.randint(1, 4))]
            values += ["null"] if self.chance(0.15) else []
            return Text(f"{ref} {form} ({', '.join(values)})", (f"{ref} {form} ({values[0]})", "true"))
        if form == "any":
            literals = [self._key_value(column.kind) for _ in range(self.random.randint(1, 3))]
            return Text(f"{ref} = any ({self._param(literals)})", ("true",))
        if form == "cast" and column.kind in ("int", "small"):
            return Text(f"{ref} = {self.one(['7.0', '7::numeric', '3::smallint', '(3 + 4)', 'abs(-7)'])}", ("true",))
        if form in ("<>", ">"):
            return Text(f"{ref} {form} {value}", ("true",))
        return Text(f"{ref} = {value}", ("true",))

    def _key_literal(self, kind: str) -> str:
        value = self._key_value(kind)
        return self._param(value) if self.chance(0.25) else _literal(value, self.random)

    def _key_value(self, kind: str) -> Any:
        match kind:
            case "int" | "small":
                return self.one([1, 2, 3, 7, 7, 7, 12, 39, -3, 500])
            case "uuid":
                return dataset.uid(self.random.randint(1, 45))
            case "date":
                return datetime.date(2024, 1, 31) + datetime.timedelta(days=self.random.randint(0, 12))
            case "bytes":
                return bytes([self.random.randint(0, 12), 0, 255])
            case _:
                return self.one(["user1", "user3", "Zoë", "", "42", "north", "south", "nobody"])

    def _comparison(self, column: Col, scope: Scope) -> Node:
        ref = column.ref
        match column.kind:
            case "bool":
                return Text(self.one([ref, f"not {ref}", f"{ref} is not true", f"{ref} = true"]), ("true",))
            case "text" | "char":
                form = self.weighted({"like": 1, "in": 1, "<": 1, "=": 3, "length": 1})
                if form == "like":
                    return Text(
                        f"{ref} {self.one(['like', 'not like', 'ilike'])} '{self.one(['a%', '%e', '_x', 'u%3'])}'",
                        ("true",),
                    )
                if form == "in":
                    return Text(f"{ref} in ({', '.join(self._literal('text') for _ in range(3))})", ("true",))
                if form == "length":
                    return Text(f"length({ref}) > 3", ("true",))
                return Text(f"{ref} {form} {self._literal('text')}", ("true",))
            case "json":
                return Text(f"({ref} ->> 'k') = '{self.random.randint(0, 3)}'", ("true",))
            case "array":
                return Text(f"{self.one(['1 = any', '2 <> all'])} ({ref})", ("true",))
            case "range":
                return Text(f"{ref} @> {self.random.randint(-2, 6)}", ("true",))
            case "texts" | "time" | "interval" | "stamp" | "bytes":
                return Text(f"{ref} is not null", ("true",))
            case kind:
                operators = ["<", ">", "<=", ">=", "<>", "between", "is distinct from"]
                operator = self.one(operators if kind in ("number", "float", "moment") else ["=", *operators])
                if operator == "between":
                    return Text(f"{ref} between {self._literal(kind)} and {self._literal(kind)}", ("true",))
                return Text(f"{ref} {operator} {self._literal(kind)}", ("true",))

    def _having(self, scope: Scope, groups: Sequence[tuple[Node, str]]) -> Node:
        if groups and self.chance(0.25):
            node, _ = self.one(groups)
            return Form("{0} is not null", (node,))
        form = self.one(["count(*) > 1", "count(*) between 1 and 9", "max({0}) > 5", "min({0}) = 7", "sum({0}) <> 0"])
        numbers = [column for column in scope.columns if column.kind in ("int", "number")]
        if "{0}" in form and not numbers:
            return Text("count(*) > 0")
        return Text(form.format(self.one(numbers).ref) if "{0}" in form else form)

    # -- values

    def _value(self, kind: str, scope: Scope, depth: int) -> Node:
        columns = [column for column in scope.columns if column.kind == kind]
        outer = [column for column in scope.outer if column.kind == kind]
        if outer and self.chance(0.1):
            columns = outer
        if not columns:
            if kind not in ("int", "text", "date", "number", "bool", "float"):
                return Text("null")
            return Text(_typed(self._literal(kind, plain=True), kind))
        column = self.one(columns)
        ref = column.ref
        if column.name in UNSCALED:
            ref = f"trim_scale({ref})"
        if depth < 2 and not self._plainly and self.chance(0.03) and kind in ("int", "text", "date", "number"):
            return self._scalar(kind, scope, depth)
        if self.chance(0.65):
            return Text(ref)
        match kind:
            case "int":
                forms = ["{0} + 1", "-{0}", "coalesce({0}, 0)", "{0} % 3", "{0} * 2", "nullif({0}, 7)", "abs({0})"]
                forms += ["case when {0} > 5 then {0} else 0 end", "greatest({0}, 4)", "{0}::bigint"]
            case "number":
                forms = ["{0} * 1.5", "round({0}, 1)", "coalesce({0}, 0)", "-{0}", "{0}::numeric(12,1)", "{0} + 1"]
            case "text":
                forms = ["upper({0})", "{0} || '!'", "coalesce({0}, '-')", "left({0}, 2)", "nullif({0}, '')"]
                forms += ['{0} collate "C"', "substring({0} from 2)", "concat({0}, 'x', 1)"]
            case "date":
                forms = ["{0} + 1", "date_trunc('month', {0})::date", "coalesce({0}, date '2024-01-01')"]
            case "bool":
                forms = ["not {0}", "{0} is true", "coalesce({0}, false)"]
            case "float":
                forms = ["{0} * 2", "-{0}", "coalesce({0}, 0)", "floor({0})"]
            case "mood":
                forms = ["coalesce({0}, 'ok')", "greatest({0}, 'ok')"]
            case _:
                forms = ["{0}"]
        return Form(self.one(forms), (Text(ref),), (0,))

    def _aggregate(self, scope: Scope) -> tuple[Node, str]:
        kind = self.one(scope.columns).kind if scope.columns else "int"
        columns = [column for column in scope.columns if column.kind == kind]
        # Aggregates of outer columns would belong to the outer query.
        ref = self.one(columns).ref if columns else "1"
        forms: list[tuple[str, str]] = [("count(*)", "int"), (f"count({ref})", "int")]
        if kind in ("int", "small", "number"):
            result = "number" if kind == "number" else "int"
            forms += [(f"sum({ref})", "number"), (f"avg({ref})", "number"), (f"avg({ref})", "number")] * 2
            forms += [(f"sum({ref} * 2)", "number"), (f"avg({ref} + 1.5)", "number"), (f"sum(-{ref})", "number")]
            forms += [(f"sum({ref} % 5)", "number")]
            forms += [(f"{self.one(VARIANCES)}({ref})", "number")]
            if ref.split(".")[-1] not in UNSCALED:
                forms += [(f"min({ref})", result), (f"max({ref})", result)]
        elif kind == "float":
            forms += [(f"sum({ref})", "float"), (f"avg({ref})", "float"), (f"max({ref})", "float")] * 2
            forms += [(f"{self.one(VARIANCES)}({ref})", "float")]
        elif kind == "bool":
            forms += [(f"bool_and({ref})", "bool"), (f"bool_or({ref})", "bool"), (f"every(not {ref})", "bool")]
        elif kind in ("text", "date", "moment", "stamp", "mood", "array", "char", "time", "interval"):
            forms += [(f"min({ref})", kind), (f"max({ref})", kind)] * 2
        if kind == "int":
            forms += [(f"bit_or({ref})", "int")]
        if not self._plainly:
            forms += self._whole_aggregates(kind, ref)
        text, result = self.one(forms)
        if self.chance(0.03) and scope.columns and not self._plainly:
            return Form(f"{text} filter (where {{0}})", (self._in_subquery(scope, 1),)), result
        if self.chance(0.15) and scope.columns:
            return Form(f"{text} filter (where {{0}})", (self._comparison(self.one(scope.columns), scope),)), result
        if result == "int" and self.chance(0.1):
            return Text(f"coalesce({text}, 0) + 1"), result
        return Text(text), result

    def _whole_aggregates(self, kind: str, ref: str) -> list[tuple[str, str]]:
        """Aggregates that cannot be combined from partial ones."""
        match kind:
            case "text":
                return [
                    (f"string_agg({ref}, ',' order by {ref})", "text"),
                    (f"count(distinct {ref})", "int"),
                    (f"percentile_disc(0.4) within group (order by {ref})", "text"),
                ]
            case "int":
                return [
                    (f"percentile_disc(0.7) within group (order by {ref} desc)", "int"),
                    (f"rank(5) within group (order by {ref})", "int"),
                    (f"count(distinct {ref})", "int"),
                    (f"array_agg({ref} order by {ref})", "array"),
                ]
            case "small" | "number" if ref.split(".")[-1] not in UNSCALED:
                return [(f"sum(distinct {ref})", "number")]
        return []

    def _literal(self, kind: str, plain: bool = False) -> str:
        value: Any
        match kind:
            case "int" | "small":
                value = self.one([0, 1, 3, 5, 7, 20, 50, 100, -2])
            case "number":
                value = self.one([Decimal("0"), Decimal("12.50"), Decimal("-3.1"), Decimal("50"), Decimal("1.00")])
            case "float":
                value = self.one([0.1, 2.5, 0.0, 1e10])
            case "text" | "char":
                value = self.one(WORDS)
            case "date":
                value = datetime.date(2024, 1, 31) + datetime.timedelta(days=self.random.randint(0, 60))
            case "moment":
                value = datetime.datetime(2024, 4, 1, self.random.randint(0, 23), tzinfo=datetime.UTC)
            case "mood":
                value = self.one(["sad", "ok", "happy"])
            case "uuid":
                value = dataset.uid(self.random.randint(1, 45))
            case "bool":
                value = self.chance(0.5)
            case _:
                return "null"
        if not plain and self.chance(0.15):
            return self._param(None if self.chance(0.1) else value)
        return _literal(value, self.random)

    def _param(self, value: Any) -> str:
        name = f"p{len(self.params) + 1}"
        self.params[name] = value
        return f":{name}"


_QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|:\w+)""")
_SPACES = (" /* :c %s ' */ ", "\n-- it's :d %\n", "\t", "  \n ")


def _strewn(sql: str, rng: random.Random) -> str:
    parts = []
    for part in _QUOTED.split(sql):
        if not _QUOTED.fullmatch(part):
            part = re.sub(r" ", lambda _: rng.choice(_SPACES) if rng.random() < 0.1 else " ", part)
            part = re.sub(r"\b[a-z_]+\b(?![^/]*\*/)", lambda m: m[0].upper() if rng.random() < 0.2 else m[0], part)
        parts.append(part)
    return "".join(parts)


def _literal(value: Any, rng: random.Random) -> str:
    match value:
        case bool() | int() | Decimal() | float():
            return str(value).lower()
        case datetime.datetime():
            return f"timestamptz '{value.isoformat(' ')}'"
        case datetime.date():
            return rng.choice([f"date '{value}'", f"'{value}'"])
        case uuid.UUID():
            return f"'{str(value).upper() if rng.random() < 0.3 else value}'"
        case bytes():
            return f"'\\x{value.hex()}'"
        case _:
            return "'" + str(value).replace("'", "''") + "'"


def _typed(literal: str, kind: str) -> str:
    return f"date {literal}" if kind == "date" and literal.startswith("'") else literal
