"""Random SELECTs over the tables of `dataset`, by seed, and shrinking of those that are answered wrongly.

A statement is a tree of nodes that can be written as text and made smaller. What is generated is deterministic in its
answer: sorted results are sorted by every output column, inner LIMITs by what they return, windows are over peers.
"""

from __future__ import annotations

import datetime
import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from tests.oracle import dataset

# -- trees ------------------------------------------------------------------------------------------------------------


class Node:
    """A piece of a statement."""

    def sql(self) -> str:
        raise NotImplementedError

    def smaller(self) -> Iterator[Node]:
        """Yield the node with one piece left out or simplified."""
        return iter(())


@dataclass(frozen=True)
class Text(Node):
    text: str
    instead: tuple[str, ...] = ()

    def sql(self) -> str:
        return self.text

    def smaller(self) -> Iterator[Node]:
        for text in self.instead:
            yield Text(text)


@dataclass(frozen=True)
class Form(Node):
    """A template with ``{0}``, ``{1}``; the children numbered in `instead` may stand for the whole."""

    template: str
    children: tuple[Node, ...]
    instead: tuple[int, ...] = ()

    def sql(self) -> str:
        return self.template.format(*(child.sql() for child in self.children))

    def smaller(self) -> Iterator[Node]:
        for place in self.instead:
            yield self.children[place]
        for place, child in enumerate(self.children):
            for less in child.smaller():
                yield replace(self, children=_with(self.children, place, less))


@dataclass(frozen=True)
class Seq(Node):
    """Items after a prefix, between separators; nothing at all without items."""

    prefix: str
    separator: str
    items: tuple[Node, ...] = ()
    least: int = 0

    def sql(self) -> str:
        return self.prefix + self.separator.join(item.sql() for item in self.items) if self.items else ""

    def smaller(self) -> Iterator[Node]:
        if len(self.items) > self.least:
            for place in range(len(self.items)):
                yield replace(self, items=self.items[:place] + self.items[place + 1 :])
        for place, item in enumerate(self.items):
            for less in item.smaller():
                yield replace(self, items=_with(self.items, place, less))


def _with(nodes: tuple[Node, ...], place: int, node: Node) -> tuple[Node, ...]:
    return (*nodes[:place], node, *nodes[place + 1 :])


@dataclass(frozen=True)
class Select(Node):
    """A SELECT. With `order` it is sorted by `first`, then by every output column, each in a direction of `order`."""

    targets: Seq
    source: Node = Text("")
    where: Seq = Seq(" where ", " and ")
    group: Seq = Seq(" group by ", ", ")
    having: Seq = Seq(" having ", " and ")
    ctes: Seq = Seq("with ", ", ")
    distinct: str = ""
    distinct_on: bool = False
    first: Seq = Seq("", ", ")
    order: tuple[str, ...] = ()
    limit: str = ""

    def sql(self) -> str:
        ctes = self.ctes.sql() + " " if self.ctes.items else ""
        distinct = (
            f"distinct on ({self.targets.items[0].sql().split(' as ')[0]}) " if self.distinct_on else self.distinct
        )
        body = "".join(part.sql() for part in (self.source, self.where, self.group, self.having))
        return f"{ctes}select {distinct}{self.targets.sql()}{body}{self.tail()}"

    def tail(self) -> str:
        if not self.order:
            return self.limit
        places = [f"{place + 1}{self.order[place % len(self.order)]}" for place in range(len(self.targets.items))]
        return " order by " + ", ".join([item.sql() for item in self.first.items] + places) + self.limit

    def smaller(self) -> Iterator[Node]:
        if self.limit:
            yield replace(self, limit="")
        elif self.order and not self.distinct_on:
            yield replace(self, order=(), first=Seq("", ", "))
        if self.distinct or self.distinct_on:
            yield replace(self, distinct="", distinct_on=False)
        for name in ("ctes", "where", "having", "group", "targets", "first", "source"):
            for less in getattr(self, name).smaller():
                yield replace(self, **{name: less})


@dataclass(frozen=True)
class SetOperation(Node):
    left: Select
    right: Select
    operator: str
    order: tuple[str, ...] = ()
    limit: str = ""

    def sql(self) -> str:
        tail = replace(self.left, order=self.order, limit=self.limit, first=Seq("", ", ")).tail()
        return f"({self.left.sql()}) {self.operator} ({self.right.sql()}){tail}"

    def smaller(self) -> Iterator[Node]:
        yield self.left
        yield self.right
        if self.limit:
            yield replace(self, limit="")
        elif self.order:
            yield replace(self, order=())
        count = len(self.left.targets.items)
        for place in range(count if count > 1 else 0):
            sides = [
                replace(side, targets=replace(side.targets, items=_without(side.targets.items, place)))
                for side in (self.left, self.right)
            ]
            yield replace(self, left=sides[0], right=sides[1])
        for name in ("left", "right"):
            for less in getattr(self, name).smaller():
                if isinstance(less, Select) and len(less.targets.items) == count:
                    yield replace(self, **{name: less})


def _without(items: tuple[Node, ...], place: int) -> tuple[Node, ...]:
    return items[:place] + items[place + 1 :]


def shrink(node: Node, fails: Callable[[Node], bool], attempts: int = 600) -> Node:
    """Return a smaller tree that still *fails*; ask at most *attempts* times."""
    improved = True
    while improved:
        improved = False
        for candidate in node.smaller():
            if attempts <= 0:
                return node
            attempts -= 1
            if fails(candidate):
                node, improved = candidate, True
                break
    return node


# -- what there is to select from -------------------------------------------------------------------------------------

_KINDS = {
    "bigint": "int",
    "integer": "int",
    "smallint": "small",
    "numeric": "number",
    "double precision": "float",
    "real": "float",
    "text": "text",
    "varchar": "text",
    "char": "char",
    "boolean": "bool",
    "date": "date",
    "timestamptz": "moment",
    "timestamp": "stamp",
    "mood": "mood",
    "uuid": "uuid",
    "jsonb": "json",
    "integer[]": "array",
    "text[]": "texts",
    "int4range": "range",
    "interval": "interval",
    "time": "time",
    "bytea": "bytes",
    "positive": "int",
}
#: Columns whose equal values may print differently are never shown as they are.
UNSCALED = frozenset({"amount", "rate"})
VARIANCES = ("var_pop", "var_samp", "variance", "stddev_pop", "stddev_samp", "stddev")
SIZES = {"orders": 240, "items": 307, "customers": 40, "visits": 40, "country": 6, "currency": 5}


@dataclass(frozen=True)
class Col:
    """A column that can be referred to as `ref`; `key` if it decides the partition of its table."""

    ref: str
    kind: str
    name: str = ""
    key: bool = False


def _tables() -> dict[str, list[tuple[str, str]]]:
    """Table -> (column, kind), read from the DDL."""
    found: dict[str, list[tuple[str, str]]] = {}
    for statement in dataset.DDL.split(";"):
        statement = statement.strip()
        if not statement.startswith("create table"):
            continue
        head, _, body = statement.partition("(")
        name = head.removeprefix("create table ").strip().strip('"')
        for part in _split(body.rstrip().removesuffix(")")):
            column, _, rest = part.strip().partition(" ") if not part.strip().startswith('"') else _quoted(part.strip())
            kind = next((k for t, k in sorted(_KINDS.items(), key=lambda kv: -len(kv[0])) if rest.startswith(t)), None)
            if kind is not None and column not in ("primary", "foreign", "moods"):
                found.setdefault(name, []).append((column, kind))
    return found


def _quoted(part: str) -> tuple[str, str, str]:
    end = part.index('" ') + 1
    return part[:end], " ", part[end + 1 :]


def _split(body: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(body):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(body[start:place])
            start = place + 1
    return [*parts, body[start:]]


TABLES = _tables()
_WORDS = ("apple", "Apple", "zebra", "", "a%b", "it's", "ß", "42", "user3", "north", "/a", "x")


def _key_kind(table: str) -> str:
    keys = keys_of(table)
    return next((kind for column, kind in TABLES[table] if keys and column == keys[0]), "")


def keys_of(table: str) -> tuple[str, ...]:
    kind = dataset.TABLES[table]
    names = getattr(kind, "columns", ())
    return tuple(f'"{name}"' if " " in name else name for name in names)


# -- generating -------------------------------------------------------------------------------------------------------


@dataclass
class Scope:
    columns: list[Col] = field(default_factory=list)
    outer: list[Col] = field(default_factory=list)
    #: Columns that an outer join may fill with NULLs.
    supplied: list[Col] = field(default_factory=list)
    rows: int = 1


class Generator:
    """Makes statements from a seed. `params` are the parameters of the statement that was made last."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.params: dict[str, Any] = {}
        self._names = 0
        self._ctes: dict[str, list[tuple[str, str]]] = {}
        #: Only tables and their joins, no subqueries: what a pushdown should answer.
        self._plainly = False
        #: Most tables are pinned to one key, or joined with one that is.
        self._pinned = False

    def statement(self) -> Node:
        self.params = {}
        self._names = 0
        self._ctes = {}
        self._plainly = self._chance(0.5)
        self._pinned = self._chance(0.3)
        if self._plainly:
            return self._sorted(self._select(Scope(), depth=1)[0])
        if self._chance(0.12):
            return self._set_operation()
        ctes = [self._cte() for _ in range(self._weighted({0: 6, 1: 2, 2: 1}))]
        select, _ = self._select(Scope(), depth=0)
        return replace(self._sorted(select), ctes=Seq("with ", ", ", tuple(ctes)))

    def spell(self, node: Node) -> str:
        """Return the node's text, for some seeds with comments, line breaks and capitals strewn in."""
        rng = random.Random(f"spelling of {self.seed}")
        return node.sql() if rng.random() < 0.8 else _strewn(node.sql(), rng)

    # -- pieces of chance

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _one(self, things: Sequence[Any]) -> Any:
        return self.random.choice(list(things))

    def _weighted(self, weights: dict[Any, float]) -> Any:
        return self.random.choices(list(weights), list(weights.values()))[0]

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    # -- statements

    def _cte(self) -> Node:
        shadow = self._chance(0.15)
        name = self._one(["orders", "items", "country", "short"]) if shadow else self._name("w")
        select, columns = self._select(Scope(), depth=2)
        hint = self._weighted({"": 6, "materialized ": 1, "not materialized ": 1})
        self._ctes[name] = columns
        listed = ", ".join(column for column, _ in columns)
        return Form(f"{name}({listed}) as {hint}({{0}})", (select,))

    def _set_operation(self) -> Node:
        kinds = [
            self._weighted({"int": 4, "text": 3, "date": 1, "number": 1}) for _ in range(self.random.randint(1, 2))
        ]
        sides = [self._select_of(kinds) for _ in range(2)]
        operator = self._one(["union", "union all", "intersect", "except", "union all", "except all", "intersect all"])
        order, limit = self._order()
        return SetOperation(sides[0], sides[1], operator, order, limit)

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
        order = tuple(self._one(["", " desc", " nulls first", " desc nulls last"]) for _ in range(3))
        if self._chance(0.35):
            order = ()
        limit = ""
        if self._chance(0.6 if order else 0.2):
            limit += f" limit {self._number_of(self._one([0, 1, 2, 3, 5, 10, 50, None]))}"
        if self._chance(0.35 if order else 0.1):
            limit += f" offset {self._number_of(self._one([0, 1, 2, 7, 20, 300, None]))}"
        return order, limit

    def _number_of(self, number: int | None) -> str:
        if self._chance(0.3):
            return self._param(number)
        return "null" if number is None else str(number)

    def _select(self, enclosing: Scope, depth: int, scope: Scope | None = None) -> tuple[Select, list[tuple[str, str]]]:
        """Return a SELECT and its output columns as (name, kind). *scope* is filled if given."""
        scope = scope or Scope()
        scope.outer = enclosing.outer + enclosing.columns
        source = self._source(scope, depth)
        where = self._where(scope, depth)
        if self._chance(0.4):
            select, columns = self._grouped(scope, source, where, depth)
        else:
            select, columns = self._plain(scope, source, where, depth)
        return select, columns

    def _plain(self, scope: Scope, source: Node, where: Seq, depth: int) -> tuple[Select, list[tuple[str, str]]]:
        targets, columns = [], []
        for _ in range(self.random.randint(1, 4)):
            if self._chance(0.03 if self._plainly else 0.1) and scope.rows < 3000:
                kind, value = "int", self._window(scope)
            else:
                kind = self._one(scope.columns).kind if scope.columns and self._chance(0.8) else "int"
                value = self._value(kind, scope, depth)
            name = self._alias(scope, columns)
            targets.append(Form(f"{{0}} as {name}", (value,)))
            columns.append((name, kind))
        distinct = "distinct " if self._chance(0.03 if self._plainly else 0.12) else ""
        on = not distinct and depth == 0 and self._chance(0.04)
        first: tuple[Node, ...] = ()
        if not distinct and not on and self._chance(0.3):
            first = (self._value(self._one(["int", "text", "number", "date"]), scope, depth),)
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
        for _ in range(self._weighted({0: 2, 1: 5, 2: 2})):
            keys = [column for column in scope.columns if column.key]
            if keys and self._chance(0.3):
                groups.append((Text(self._one(keys).ref), "int"))
                groups[-1] = (groups[-1][0], next(c.kind for c in keys if c.ref == groups[-1][0].sql()))
            elif scope.columns:
                kind = self._one(scope.columns).kind
                value = self._value(kind, scope, 3)
                if any(column.ref in value.sql() for column in scope.columns):
                    groups.append((value, kind))
        targets: list[Node] = []
        columns: list[tuple[str, str]] = []
        shown = [group for group in groups if self._chance(0.85)]
        spelled: dict[int, Node] = {}
        for node, kind in shown:
            name = self._alias(scope, columns)
            place = len(targets) + 1
            targets.append(Form(f"{{0}} as {name}", (node,)))
            columns.append((name, kind))
            if self._chance(0.2):
                spelled[groups.index((node, kind))] = Text(str(place))
        for _ in range(self.random.randint(0 if targets else 1, 3)):
            value, kind = self._aggregate(scope)
            name = self._alias(scope, columns)
            targets.append(Form(f"{{0}} as {name}", (value,)))
            columns.append((name, kind))
        group = tuple(spelled.get(place, node) for place, (node, _) in enumerate(groups))
        having: tuple[Node, ...] = ()
        if self._chance(0.3):
            having = (self._having(scope, groups),)
        first: tuple[Node, ...] = ()
        if self._chance(0.2):
            value, kind = self._aggregate(scope)
            # The last digits of a floating sum decide nothing.
            first = () if kind == "float" else (value,)
        style = self._weighted({"": 12, "rollup": 1, "cube": 1}) if len(group) > 1 and not spelled else ""
        grouping = (Form(style + "({0}, {1})", group[:2]), *group[2:]) if style else group
        select = Select(
            Seq("", ", ", tuple(targets), 1),
            source,
            where,
            Seq(" group by ", ", ", grouping),
            Seq(" having ", " and ", having),
            first=Seq("", ", ", first),
            distinct="distinct " if not first and self._chance(0.05) else "",
        )
        return select, columns

    def _alias(self, scope: Scope, taken: Sequence[tuple[str, str]]) -> str:
        """Names of input columns are likely: they are what a planner mixes up."""
        names = [column.name for column in scope.columns if column.name.isidentifier() and column.name.islower()]
        used = {name for name, _ in taken}
        name = self._one(names) if names and self._chance(0.3) else ""
        return name if name and name not in used else self._name("c")

    # -- FROM

    def _source(self, scope: Scope, depth: int) -> Node:
        count = self._weighted({1: 5, 2: 5, 3: 2} if depth < 2 else {1: 8, 2: 2})
        node, _ = self._item(scope, depth)
        for _ in range(count - 1):
            node = self._join(node, scope, depth)
        return Seq(" from ", ", ", (node,), 1)

    def _item(self, scope: Scope, depth: int) -> tuple[Node, list[Col]]:
        weights = {"table": 14, "cte": 4 if self._ctes else 0, "subquery": 2 if depth < 2 else 0, "values": 0.7}
        kind = "table" if self._plainly else self._weighted({**weights, "series": 0.5})
        alias = self._name("t")
        if kind == "cte":
            name = self._one(sorted(self._ctes))
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
            columns = [Col(f"{alias}.n", "int", "n")]
            node = Text(f"generate_series(1, 9) {alias}(n)")
            scope.rows *= 9
        else:
            node, columns = self._table(alias, scope)
        scope.columns += columns
        return node, columns

    def _table(self, alias: str, scope: Scope) -> tuple[Node, list[Col]]:
        weights = dict.fromkeys(TABLES, 1.0) | {"orders": 6.0, "items": 3.0, "customers": 3.0, "country": 2.0}
        family = {column.kind for column in scope.columns + scope.outer if column.key} & {"int", "small", "text"}
        if family and self._chance(0.75):
            same = {"int": "int", "small": "int", "text": "text"}
            wanted = same[self._one(sorted(family))]
            weights = {name: weight for name, weight in weights.items() if same.get(_key_kind(name), "") == wanted}
        if scope.rows > 200:
            weights = {name: weight for name, weight in weights.items() if SIZES.get(name, 30) <= 40}
        name = self._weighted(weights)
        while name in self._ctes:
            name = self._one(sorted(TABLES))
        quoted = f'"{name}"' if " " in name else name
        scope.rows *= max(SIZES.get(name, 25), 1)
        spelled = f"shop.{quoted}" if self._chance(0.08) else quoted
        taken = {column.ref.split(".")[0] for column in scope.columns}
        bare = self._chance(0.12) and quoted not in taken
        keys = keys_of(name)
        columns = []
        names = [column for column, _ in TABLES[name]]
        renamed = {}
        if not bare and self._chance(0.05):
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
        if depth < 2 and not self._plainly and self._chance(0.08):
            return self._lateral(left, scope, depth)
        rows = scope.rows
        if len(before) and self._chance(0.1):
            merged = self._using(left, scope)
            if merged is not None:
                return merged
        right, added = self._item(scope, depth)
        kind = self._weighted({"join": 6, "left join": 5, "right join": 2, "full join": 1.5, ",": 1, "cross join": 0.7})
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
        if equal is not None and (tight or self._chance(0.85)):
            conditions.append(equal)
            scope.rows = max(rows * 4, 200)
        if equal is None and tight:
            kind, conditions = "join", [Text("false")]
        if self._chance(0.3):
            conditions.append(self._condition(Scope(columns=before + added, outer=scope.outer), depth + 1))
        if not conditions:
            conditions.append(Text("true"))
        if kind == ",":
            return Form("({0} join {1} on {2})", (left, right, Seq("", " and ", tuple(conditions), 1)), (0, 1))
        return Form(f"({{0}} {kind} {{1}} on {{2}})", (left, right, Seq("", " and ", tuple(conditions), 1)), (0, 1))

    def _using(self, left: Node, scope: Scope) -> Node | None:
        """Join one more table by USING or NATURAL, when the names allow it."""
        alias = self._name("t")
        name = self._one(["short", "tiny", "lone", "nothing", "people", "logins", "balances", "country"])
        if name in self._ctes or scope.rows > 6000:
            return None
        columns = [Col(f"{alias}.{column}", kind, column, column in keys_of(name)) for column, kind in TABLES[name]]
        lefts = [column.name for column in scope.columns]
        common = [column for column in columns if lefts.count(column.name) == 1]
        if not common:
            return None
        shared = common if name == "balances" or self._chance(0.2) else common[:1]
        kind = self._one(["join", "left join", "right join", "full join", "join"])
        scope.rows = max(scope.rows * 4, 200)
        scope.columns += columns
        for column in shared:
            scope.columns.append(Col(column.name, "int" if column.kind == "small" else column.kind, column.name))
        if len(shared) == len(common) and len(set(lefts)) == len(lefts) and self._chance(0.5):
            return Form(f"({{0}} natural {kind} {name} {alias})", (left,), (0,))
        return Form(f"({{0}} {kind} {name} {alias} using ({', '.join(c.name for c in shared)}))", (left,), (0,))

    def _equality(self, left: Sequence[Col], right: Sequence[Col]) -> Node | None:
        """Mostly the partition keys, sometimes any columns of the same kind."""
        keys = [(a, b) for a in left for b in right if a.key and b.key and self._alike(a, b)]
        plain = [(a, b) for a in left for b in right if a.kind == b.kind and a.kind in ("int", "text", "date", "mood")]
        by_name = [(a, b) for a, b in plain if a.name == b.name]
        pairs = keys if keys and self._chance(0.75) else by_name if by_name and self._chance(0.7) else plain
        if not pairs:
            return None
        a, b = self._one(pairs)
        if self._chance(0.5):
            a, b = b, a
        conditions: list[Node] = [Text(f"{a.ref} = {b.ref}")]
        for name in ("order_id", "account", "line"):
            more = [
                (x, y) for x in left for y in right if name in (x.name, y.name) and {x.name, y.name} <= {name, "id"}
            ]
            if more and self._chance(0.8):
                conditions.append(Text(f"{more[0][0].ref} = {more[0][1].ref}"))
        if self._chance(0.05):
            return Form("({0})", (Seq("", " or ", tuple(conditions), 1),))
        return Seq("", " and ", tuple(conditions), 1)

    def _alike(self, a: Col, b: Col) -> bool:
        return a.kind == b.kind or {a.kind, b.kind} == {"int", "small"}

    def _lateral(self, left: Node, scope: Scope, depth: int) -> Node:
        alias = self._name("t")
        inner = Scope(outer=scope.outer + scope.columns)
        item, _ = self._item(inner, 2)
        where = self._where(inner, depth + 1)
        kind = self._one(["int", "text"])
        value = self._value(kind, inner, 3)
        limit = self.random.randint(1, 3)
        select = Form(f"(select {{0}} as x from {{1}}{{2}} order by 1 limit {limit})", (value, item, where))
        scope.columns.append(Col(f"{alias}.x", kind, "x"))
        scope.rows *= limit
        form = self._one(["({0} cross join lateral {1} {2})", "({0} left join lateral {1} {2} on true)"])
        return Form(form, (left, select, Text(alias)), (0,))

    # -- conditions

    def _where(self, scope: Scope, depth: int) -> Seq:
        count = self._weighted({0: 4, 1: 4, 2: 1.5, 3: 0.3})
        conditions = self._pins(scope) if self._pinned else []
        keys = [column for column in scope.columns if column.key]
        outer = [column for column in scope.outer if column.key]
        if keys and outer and self._chance(0.5):
            pairs = [(a, b) for a in keys for b in outer if self._alike(a, b)]
            conditions += [Text(f"{a.ref} = {b.ref}") for a, b in self.random.sample(pairs, min(1, len(pairs)))]
        if scope.supplied and self._chance(0.35):
            conditions.append(self._on_supplied(scope))
        conditions += [self._condition(scope, depth) for _ in range(count)]
        return Seq(" where ", " and ", tuple(conditions))

    def _on_supplied(self, scope: Scope) -> Node:
        """A condition on the side that an outer join may have filled with NULLs, strict or not."""
        column = self._one(scope.supplied)
        form = self._one(
            ["{0} is null", "{0} is not null", "{1} is not true", "({0} is null or {1})", "{1}", "not {1}"]
        )
        return Text(form.format(column.ref, f"({self._comparison(column, scope).sql()})"), ("true",))

    def _pins(self, scope: Scope) -> list[Node]:
        """Pin key columns to the heavy customer, or to each other."""
        keys = [column for column in scope.columns if column.key and column.kind in ("int", "small")]
        found: list[Node] = []
        for place, column in enumerate(keys):
            if place and self._chance(0.5):
                found.append(Text(f"{self._one(keys[:place]).ref} = {column.ref}"))
            elif self._chance(0.7):
                found.append(Text(f"{column.ref} = {self._one([7, 7, 7, 3])}"))
        return found

    def _condition(self, scope: Scope, depth: int) -> Node:
        nested = depth < 2 and not self._plainly
        kind = self._weighted(
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
            }
        )
        if not scope.columns:
            return Text("true")
        if kind == "key":
            return self._key_condition(self._one([column for column in scope.columns if column.key]))
        if kind == "null":
            column = self._one(scope.columns)
            return Text(f"{column.ref} is {self._one(['null', 'not null'])}", ("true",))
        if kind == "or":
            parts = (self._condition(scope, depth + 1), self._condition(scope, depth + 1))
            return Form("({0} or {1})", parts, (0, 1))
        if kind == "not":
            return Form("not ({0})", (self._condition(scope, depth + 1),), (0,))
        if kind in ("columns", "outer"):
            return self._column_condition(scope, kind == "outer")
        if kind == "exists":
            select, _ = self._select(scope, depth + 2)
            return Form(self._one(["exists ({0})", "not exists ({0})"]), (select,))
        if kind == "in":
            return self._in_subquery(scope, depth)
        if kind == "scalar":
            column = self._one(scope.columns)
            wanted = "int" if column.kind not in ("text", "date", "number") else column.kind
            left = column.ref if wanted == column.kind else "5"
            return Form(f"{left} {self._one(['=', '<', '>=', '<>'])} {{0}}", (self._scalar(wanted, scope, depth),))
        if kind == "truth":
            return Form(
                self._one(["({0}) is not true", "({0}) is null", "coalesce({0}, false)", "({0}) = true"]),
                (self._condition(scope, depth + 1),),
                (0,),
            )
        return self._comparison(self._one(scope.columns), scope)

    def _column_condition(self, scope: Scope, outer: bool) -> Node:
        left = self._one(scope.columns)
        others = [column for column in (scope.outer if outer else scope.columns) if self._alike(column, left)]
        named = [column for column in others if column.name == left.name or (column.key and left.key)]
        if not others or left.kind in ("json",):
            return Text("true")
        right = self._one(named if named and self._chance(0.7) else others)
        operator = self._weighted({"=": 6, "<": 1, "<>": 1, ">=": 1, "is not distinct from": 1})
        return Text(f"{left.ref} {operator} {right.ref}", ("true",))

    def _in_subquery(self, scope: Scope, depth: int) -> Node:
        columns = [column for column in scope.columns if column.kind in ("int", "text", "date")]
        if not columns:
            return Text("true")
        column = self._one(columns)
        inner = Scope(outer=scope.outer + scope.columns)
        item, added = self._item(inner, 2)
        same = [other for other in added if other.kind == column.kind]
        if not same:
            return Text("true")
        keyed = [other for other in same if other.name == column.name or (other.key and column.key)]
        value = self._one(keyed if keyed and self._chance(0.6) else same)
        operator = self._weighted({"in": 6, "not in": 2, "= any": 1, "<> all": 1})
        where = self._where(inner, depth + 2)
        return Form(f"{column.ref} {operator} (select {value.ref} from {{0}}{{1}})", (item, where))

    def _scalar(self, kind: str, scope: Scope, depth: int) -> Node:
        inner = Scope(outer=scope.outer + scope.columns)
        item, _ = self._item(inner, 2)
        where = self._where(inner, depth + 2)
        value = self._value(kind, inner, 3)
        if kind == "int" and self._chance(0.4):
            return Form("(select count(*) from {0}{1})", (item, where))
        return Form(f"(select {self._one(['min', 'max'])}({{0}}) from {{1}}{{2}})", (value, item, where))

    def _key_condition(self, column: Col) -> Node:
        ref, value = column.ref, self._key_literal(column.kind)
        form = self._weighted({"=": 5, "swap": 1, "in": 4, "any": 2, "not in": 0.6, "<>": 0.8, "cast": 0.8, ">": 1.5})
        if form == "swap":
            return Text(f"{value} = {ref}", ("true",))
        if form in ("in", "not in"):
            values = [self._key_literal(column.kind) for _ in range(self.random.randint(1, 4))]
            values += ["null"] if self._chance(0.15) else []
            return Text(f"{ref} {form} ({', '.join(values)})", (f"{ref} {form} ({values[0]})", "true"))
        if form == "any":
            literals = [self._key_value(column.kind) for _ in range(self.random.randint(1, 3))]
            return Text(f"{ref} = any ({self._param(literals)})", ("true",))
        if form == "cast" and column.kind in ("int", "small"):
            return Text(f"{ref} = {self._one(['7.0', '7::numeric', '3::smallint', '(3 + 4)', 'abs(-7)'])}", ("true",))
        if form in ("<>", ">"):
            return Text(f"{ref} {form} {value}", ("true",))
        return Text(f"{ref} = {value}", ("true",))

    def _key_literal(self, kind: str) -> str:
        value = self._key_value(kind)
        return self._param(value) if self._chance(0.25) else _literal(value, self.random)

    def _key_value(self, kind: str) -> Any:
        match kind:
            case "int" | "small":
                return self._one([1, 2, 3, 7, 7, 7, 12, 39, -3, 500])
            case "uuid":
                return dataset.uid(self.random.randint(1, 45))
            case "date":
                return datetime.date(2024, 1, 31) + datetime.timedelta(days=self.random.randint(0, 12))
            case "bytes":
                return bytes([self.random.randint(0, 12), 0, 255])
            case _:
                return self._one(["user1", "user3", "Zoë", "", "42", "north", "south", "nobody"])

    def _comparison(self, column: Col, scope: Scope) -> Node:
        ref = column.ref
        match column.kind:
            case "bool":
                return Text(self._one([ref, f"not {ref}", f"{ref} is not true", f"{ref} = true"]), ("true",))
            case "text" | "char":
                form = self._weighted({"like": 1, "in": 1, "<": 1, "=": 3, "length": 1})
                if form == "like":
                    return Text(
                        f"{ref} {self._one(['like', 'not like', 'ilike'])} '{self._one(['a%', '%e', '_x', 'u%3'])}'",
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
                return Text(f"{self._one(['1 = any', '2 <> all'])} ({ref})", ("true",))
            case "range":
                return Text(f"{ref} @> {self.random.randint(-2, 6)}", ("true",))
            case "texts" | "time" | "interval" | "stamp" | "bytes":
                return Text(f"{ref} is not null", ("true",))
            case kind:
                operators = ["<", ">", "<=", ">=", "<>", "between", "is distinct from"]
                operator = self._one(operators if kind in ("number", "float", "moment") else ["=", *operators])
                if operator == "between":
                    return Text(f"{ref} between {self._literal(kind)} and {self._literal(kind)}", ("true",))
                return Text(f"{ref} {operator} {self._literal(kind)}", ("true",))

    def _having(self, scope: Scope, groups: Sequence[tuple[Node, str]]) -> Node:
        if groups and self._chance(0.25):
            node, _ = self._one(groups)
            return Form("{0} is not null", (node,))
        form = self._one(["count(*) > 1", "count(*) between 1 and 9", "max({0}) > 5", "min({0}) = 7", "sum({0}) <> 0"])
        numbers = [column for column in scope.columns if column.kind in ("int", "number")]
        if "{0}" in form and not numbers:
            return Text("count(*) > 0")
        return Text(form.format(self._one(numbers).ref) if "{0}" in form else form)

    # -- values

    def _value(self, kind: str, scope: Scope, depth: int) -> Node:
        columns = [column for column in scope.columns if column.kind == kind]
        outer = [column for column in scope.outer if column.kind == kind]
        if outer and self._chance(0.1):
            columns = outer
        if not columns:
            if kind not in ("int", "text", "date", "number", "bool", "float"):
                return Text("null")
            return Text(_typed(self._literal(kind, plain=True), kind))
        column = self._one(columns)
        ref = column.ref
        if column.name in UNSCALED:
            ref = f"trim_scale({ref})"
        if depth < 2 and not self._plainly and self._chance(0.03) and kind in ("int", "text", "date", "number"):
            return self._scalar(kind, scope, depth)
        if self._chance(0.65):
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
        return Form(self._one(forms), (Text(ref),), (0,))

    def _aggregate(self, scope: Scope) -> tuple[Node, str]:
        kind = self._one(scope.columns).kind if scope.columns else "int"
        columns = [column for column in scope.columns if column.kind == kind]
        # Aggregates of outer columns would belong to the outer query.
        ref = self._one(columns).ref if columns else "1"
        forms: list[tuple[str, str]] = [("count(*)", "int"), (f"count({ref})", "int")]
        if kind in ("int", "small", "number"):
            result = "number" if kind == "number" else "int"
            forms += [(f"sum({ref})", "number"), (f"avg({ref})", "number"), (f"avg({ref})", "number")] * 2
            forms += [(f"sum({ref} * 2)", "number"), (f"avg({ref} + 1.5)", "number"), (f"sum(-{ref})", "number")]
            forms += [(f"sum({ref} % 5)", "number")]
            forms += [(f"{self._one(VARIANCES)}({ref})", "number")]
            if ref.split(".")[-1] not in UNSCALED:
                forms += [(f"min({ref})", result), (f"max({ref})", result)]
        elif kind == "float":
            forms += [(f"sum({ref})", "float"), (f"avg({ref})", "float"), (f"max({ref})", "float")] * 2
            forms += [(f"{self._one(VARIANCES)}({ref})", "float")]
        elif kind == "bool":
            forms += [(f"bool_and({ref})", "bool"), (f"bool_or({ref})", "bool"), (f"every(not {ref})", "bool")]
        elif kind in ("text", "date", "moment", "stamp", "mood", "array", "char", "time", "interval"):
            forms += [(f"min({ref})", kind), (f"max({ref})", kind)] * 2
        if kind == "int":
            forms += [(f"bit_or({ref})", "int")]
        if not self._plainly:
            forms += self._whole_aggregates(kind, ref)
        text, result = self._one(forms)
        if self._chance(0.15) and scope.columns:
            return Form(f"{text} filter (where {{0}})", (self._comparison(self._one(scope.columns), scope),)), result
        if result == "int" and self._chance(0.1):
            return Text(f"coalesce({text}, 0) + 1"), result
        return Text(text), result

    def _whole_aggregates(self, kind: str, ref: str) -> list[tuple[str, str]]:
        """Aggregates that cannot be combined from partial ones."""
        match kind:
            case "text":
                return [(f"string_agg({ref}, ',' order by {ref})", "text"), (f"count(distinct {ref})", "int")]
            case "int":
                return [(f"count(distinct {ref})", "int"), (f"array_agg({ref} order by {ref})", "array")]
            case "small" | "number" if ref.split(".")[-1] not in UNSCALED:
                return [(f"sum(distinct {ref})", "number")]
        return []

    def _window(self, scope: Scope) -> Node:
        order = self._one([column for column in scope.columns if column.kind != "json"] or scope.columns).ref
        part = self._one(scope.columns).ref
        function = self._one(["rank()", "dense_rank()", "count(*)", f"count({part})"])
        form = self._one(["(partition by {p} order by {o})", "(order by {o} desc)", "(partition by {p})"])
        if "order" not in form and "rank" in function:
            form = "(order by {o})"
        return Text(f"{function} over {form.format(p=part, o=order)}", ("1",))

    def _literal(self, kind: str, plain: bool = False) -> str:
        value: Any
        match kind:
            case "int" | "small":
                value = self._one([0, 1, 3, 5, 7, 20, 50, 100, -2])
            case "number":
                value = self._one([Decimal("0"), Decimal("12.50"), Decimal("-3.1"), Decimal("50"), Decimal("1.00")])
            case "float":
                value = self._one([0.1, 2.5, 0.0, 1e10])
            case "text" | "char":
                value = self._one(_WORDS)
            case "date":
                value = datetime.date(2024, 1, 31) + datetime.timedelta(days=self.random.randint(0, 60))
            case "moment":
                value = datetime.datetime(2024, 4, 1, self.random.randint(0, 23), tzinfo=datetime.UTC)
            case "mood":
                value = self._one(["sad", "ok", "happy"])
            case "uuid":
                value = dataset.uid(self.random.randint(1, 45))
            case "bool":
                value = self._chance(0.5)
            case _:
                return "null"
        if not plain and self._chance(0.15):
            return self._param(None if self._chance(0.1) else value)
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
