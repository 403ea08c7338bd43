"""The oracle: a sharded keyspace, and one plain PostgreSQL database with the same rows; both must answer alike.

`Oracle.check` runs a statement on both and judges the answers:

========  ============================================================================================================
same      the same column names, types and rows, in the same order where the statement fixes one; or both failed
refused   the sharded side raised a coded refusal where plain PostgreSQL answers: allowed, but counted and listed
mismatch  anything else: other rows, names or types; an answer where plain PostgreSQL fails, in whichever way it joins;
          an error that is no refusal
========  ============================================================================================================

Floating numbers may differ in their last digits. Types of the user are compared by being such, not by their numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from typing import Any

import postgast
import psycopg2
import psycopg2.extras
from postgast import pg_query_pb2 as pb
from sqlalchemy.engine import make_url

from shardpool.config import Config, parse_config
from shardpool.engines.registry import connect_arguments
from shardpool.errors import PlanError, RoutingError, ShardpoolError
from shardpool.executor.explain import Explanation
from shardpool.planner.statement import from_text, to_pyformat
from shardpool.router import Router
from tests.oracle import dataset
from tests.support.backends import databases

KEYSPACE = "shop"
#: Types below have the same number on every server.
FIRST_USER_OID = 16384
FLOAT4, FLOAT8 = 700, 701
#: A row of no type of its own, and an array of such.
RECORDS = (2249, 2287)
#: Relative tolerances of floating columns.
TOLERANCES = {FLOAT4: 1e-5, FLOAT8: 1e-9}

#: Settings of plain PostgreSQL's planner.
OTHER_WAYS = ("enable_hashjoin", "enable_mergejoin", "enable_nestloop", "enable_material")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Answer:
    """What one side said: rows with their description, or an error and its SQLSTATE or refusal code."""

    names: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    #: Per column what its type was declared with: size, precision, scale.
    modifiers: tuple[tuple[Any, ...], ...] = ()
    rows: tuple[Row, ...] = ()
    error: BaseException | None = None
    code: str = ""

    def __str__(self) -> str:
        if self.error is not None:
            return f"{type(self.error).__name__} {self.code}: {str(self.error).strip().splitlines()[0]}"
        shown = "\n".join(f"    {row!r}" for row in self.rows[:12])
        more = f"\n    ... {len(self.rows) - 12} more" if len(self.rows) > 12 else ""
        return f"{len(self.rows)} rows of {list(zip(self.names, self.types, strict=True))}\n{shown}{more}"


@dataclass(frozen=True)
class Outcome:
    """The judgement of one statement. `why` is empty unless it is a mismatch, or names the refusal."""

    kind: str
    sql: str
    params: Mapping[str, Any]
    rung: str
    why: str
    plain: Answer
    sharded: Answer
    plan: str = ""

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.why}\nrung: {self.rung}\nstatement: {self.sql}\nparameters: {dict(self.params)!r}\n"
            f"plain: {self.plain}\nsharded: {self.sharded}\n{self.plan}"
        )


@dataclass
class Tally:
    """Counts of what was checked."""

    kinds: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)
    mismatches: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        if outcome.kind == "same" and outcome.plain.error is not None:
            self.kinds["same (both fail)"] += 1
        if outcome.rung:
            self.rungs[outcome.rung] += 1
        if outcome.kind == "refused":
            self.refusals[outcome.why] += 1
            self.refused.append((outcome.why, outcome.sql))
        if outcome.kind == "mismatch":
            self.mismatches.append(outcome)

    def __str__(self) -> str:
        return f"{dict(self.kinds)}; rungs {dict(self.rungs)}; refused {dict(self.refusals)}"


class Oracle:
    """Both sides, opened. Use `open_oracle`."""

    def __init__(self, router: Router, connect_plain: Callable[[], Any]) -> None:
        self.router = router
        self.connect_plain = connect_plain
        self.plain = plain = connect_plain()
        self.tally = Tally()
        self.version: int = plain.server_version // 10000

    def check(self, sql: str, params: Mapping[str, Any] | None = None, *, ties: bool = False) -> Outcome:
        """Run *sql* on both sides and judge. With *ties*, rows that ORDER BY does not tell apart may swap places."""
        given = dict(params or {})
        plain = self.ask_plain(sql, given)
        sharded = self.ask_sharded(sql, given)
        if plain.error is not None and sharded.error is None:
            plain = self._otherwise_planned(sql, given) or plain
        explanation = self._explain(sql, given)
        kind, why = self._judge(sql, given, plain, sharded, ties)
        plan = str(explanation) if explanation is not None and kind == "mismatch" else ""
        rung = explanation.rung if explanation is not None else ""
        outcome = Outcome(kind, sql, given, rung, why, plain, sharded, plan)
        self.tally.add(outcome)
        return outcome

    def forget_plans(self) -> None:
        """Make the router compile every statement anew: the planner was changed."""
        self.router._queries.clear()

    def ask_plain(self, sql: str, params: Mapping[str, Any]) -> Answer:
        return self._ask_plain(pyformat(sql), params)

    def ask_sharded(self, sql: str, params: Mapping[str, Any]) -> Answer:
        try:
            result = self.router.query(sql, params)
            description = result.description  # type: ignore[attr-defined]
            rows = tuple(tuple(row) for row in result.fetchall())
        except Exception as error:
            return Answer(error=error, code=_code_of(error))
        return _answer(description, rows)

    def _ask_plain(self, text: str, params: Mapping[str, Any]) -> Answer:
        try:
            with self.plain.cursor() as cursor:
                cursor.execute(text, params)
                return _answer(cursor.description, tuple(cursor.fetchall()))
        except (psycopg2.Error, KeyError, ValueError, TypeError, IndexError) as error:
            return Answer(error=error, code=_code_of(error))

    def _otherwise_planned(self, sql: str, params: Mapping[str, Any]) -> Answer | None:
        """What plain PostgreSQL answers if it joins in another way: that may decide whether it comes to what fails."""
        for setting in OTHER_WAYS:
            with self.plain.cursor() as cursor:
                cursor.execute(f"SET {setting} TO off")
                try:
                    answer = self.ask_plain(sql, params)
                finally:
                    cursor.execute(f"RESET {setting}")
            if answer.error is None:
                return answer
        return None

    def _explain(self, sql: str, params: Mapping[str, Any]) -> Explanation | None:
        """The plan; None for what was refused, or is no statement: the answer says so."""
        try:
            return self.router.explain(sql, params)
        except Exception:
            return None

    # -- judging ----------------------------------------------------------------------------------------------------

    def _judge(
        self, sql: str, params: Mapping[str, Any], plain: Answer, sharded: Answer, ties: bool
    ) -> tuple[str, str]:
        if plain.error is not None and sharded.error is not None:
            return "same", ""
        if sharded.error is not None:
            if isinstance(sharded.error, PlanError | RoutingError):
                return "refused", sharded.code
            return "mismatch", "the sharded side failed, and not by a refusal"
        if plain.error is not None:
            return "mismatch", "the sharded side answered where plain PostgreSQL fails"
        why = _described_alike(self._by_records(plain, sharded), sharded, sql) or self._rows_alike(
            sql, params, plain, sharded, ties
        )
        return ("mismatch", why) if why else ("same", "")

    def _by_records(self, plain: Answer, sharded: Answer) -> Answer:
        """The plain answer with records in place of rows of views, where the sharded side says record."""
        if not any(got in RECORDS and got != it for got, it in zip(sharded.types, plain.types, strict=False)):
            return plain
        views = self._ask_plain(
            "select t.oid, t.typarray from pg_class c join pg_type t on t.oid = c.reltype where c.relkind = 'v'", {}
        )
        of_views = {oid: record for row in views.rows for oid, record in zip(row, RECORDS, strict=True)}
        return replace(plain, types=tuple(of_views.get(it, it) for it in plain.types))

    def _rows_alike(self, sql: str, params: Mapping[str, Any], plain: Answer, sharded: Answer, ties: bool) -> str:
        tolerances = [TOLERANCES.get(oid, 0.0) for oid in plain.types]
        if _ONE_OF_EQUALS.search(sql):
            plain, sharded = _normalized(plain), _normalized(sharded)
        if len(plain.rows) != len(sharded.rows):
            return f"{len(sharded.rows)} rows, expected {len(plain.rows)}"
        if _same_sequence(plain.rows, sharded.rows, tolerances):
            return ""
        top = _Top(sql)
        if top.ordered:
            keys = top.sort_columns(plain.names)
            by_key = [[tuple(row[place] for place in keys) for row in rows] for rows in (plain.rows, sharded.rows)]
            if not ties:
                if _missing(sharded.rows, plain.rows, tolerances):
                    return "other rows"
                # 1.0 and 1.00 sort alike.
                return "" if keys and by_key[0] == by_key[1] else "the rows are in another order"
            if not _same_sequence(by_key[0], by_key[1], [tolerances[place] for place in keys]):
                return "the sort keys are in another order"
        if not top.limited:
            missing = _missing(sharded.rows, plain.rows, tolerances)
            return f"rows that plain PostgreSQL does not have: {missing[:3]!r}" if missing else ""
        everything = self._ask_plain(top.without_limit(), params)
        if _ONE_OF_EQUALS.search(sql):
            everything = _normalized(everything)
        missing = _missing(sharded.rows, everything.rows, tolerances)
        return f"rows that plain PostgreSQL does not have without LIMIT: {missing[:3]!r}" if missing else ""


def _answer(description: Any, rows: tuple[Row, ...]) -> Answer:
    names = tuple(column.name for column in description)
    types = tuple(column.type_code for column in description)
    return Answer(names, types, tuple((c.internal_size, c.precision, c.scale) for c in description), rows)


def _code_of(error: BaseException) -> str:
    original = getattr(error, "orig", error)
    code = getattr(error, "code", None) if isinstance(error, ShardpoolError) else None
    return code or getattr(original, "pgcode", None) or type(error).__name__


def _described_alike(plain: Answer, sharded: Answer, sql: str) -> str:
    if plain.names != sharded.names:
        return f"columns {sharded.names}, expected {plain.names}"
    for name, got, expected in zip(plain.names, sharded.types, plain.types, strict=True):
        user_types = got >= FIRST_USER_OID and expected >= FIRST_USER_OID
        if got != expected and not user_types:
            return f"column {name} has type {got}, expected {expected}"
    # Where one branch of a set operation is known to be empty, PostgreSQL describes the columns by the other alone.
    branches = any(word in sql.lower() for word in (" union ", " intersect ", " except "))
    if plain.modifiers != sharded.modifiers and not branches:
        return f"sizes and precisions {sharded.modifiers}, expected {plain.modifiers}"
    return ""


#: Set operations that keep one of rows that are equal and may print differently, 1 or 1.0.
_ONE_OF_EQUALS = re.compile(r"\b(intersect|except)\b|\bunion\b(?!\s+all\b)", re.IGNORECASE)


_EXACT = Context(prec=2000)


def _normalized(answer: Answer) -> Answer:
    rows = tuple(tuple(it.normalize(_EXACT) if isinstance(it, Decimal) else it for it in row) for row in answer.rows)
    return replace(answer, rows=rows)


# -- comparing rows ---------------------------------------------------------------------------------------------------


def _same_sequence(left: Sequence[Row], right: Sequence[Row], tolerances: Sequence[float]) -> bool:
    return len(left) == len(right) and all(_same_row(a, b, tolerances) for a, b in zip(left, right, strict=True))


def _same_row(left: Row, right: Row, tolerances: Sequence[float]) -> bool:
    return all(_same_value(a, b, tolerance) for a, b, tolerance in zip(left, right, tolerances, strict=True))


def _same_value(left: Any, right: Any, tolerance: float) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return math.isclose(left, right, rel_tol=tolerance or 1e-9, abs_tol=tolerance * 1e-3)
    return fingerprint(left) == fingerprint(right)


def fingerprint(value: Any) -> Any:
    """A hashable that is equal for equal values; numeric values that print differently are different."""
    match value:
        case float():
            return f"{value:.9e}"
        case Decimal():
            return "numeric", str(value)
        case list() | tuple():
            return tuple(fingerprint(element) for element in value)
        case dict():
            return json.dumps(value, sort_keys=True)
        case memoryview() | bytes():
            return bytes(value)
    return type(value).__name__, str(value)


def _missing(rows: Sequence[Row], stock: Sequence[Row], tolerances: Sequence[float]) -> list[Row]:
    """Return the *rows* that are not, as often, in *stock*."""
    shelves: dict[Any, list[Row]] = {}
    for row in stock:
        shelves.setdefault(_exact_part(row), []).append(row)
    wanted: dict[Any, list[Row]] = {}
    for row in rows:
        wanted.setdefault(_exact_part(row), []).append(row)
    missing = []
    for part, found in wanted.items():
        # Both in the order of their floating numbers: a step through the shelf finds a partner for each.
        shelf = iter(sorted(shelves.get(part, []), key=_floats))
        for row in sorted(found, key=_floats):
            if not any(_same_row(row, other, tolerances) for other in shelf):
                missing.append(row)
    return missing


def _exact_part(row: Row) -> Row:
    return tuple("float" if isinstance(value, float) else fingerprint(value) for value in row)


def _floats(row: Row) -> list[float]:
    return [value for value in row if isinstance(value, float) and not math.isnan(value)]


class _Top:
    """What the outermost SELECT says about order and number of rows."""

    def __init__(self, sql: str) -> None:
        self._statement = from_text(sql)
        self._select = self._statement.node.select_stmt

    @property
    def ordered(self) -> bool:
        return bool(self._select.sort_clause)

    @property
    def limited(self) -> bool:
        return bool(self._select.HasField("limit_count") or self._select.HasField("limit_offset"))

    def sort_columns(self, names: Sequence[str]) -> list[int]:
        """The output columns by which rows are sorted first, as far as the leading sort keys are output columns."""
        places: list[int] = []
        for node in self._select.sort_clause:
            by = node.sort_by.node
            if by.WhichOneof("node") == "a_const" and by.a_const.WhichOneof("val") == "ival":
                places.append(by.a_const.ival.ival - 1)
            elif by.WhichOneof("node") == "column_ref" and by.column_ref.fields[-1].string.sval in names:
                places.append(names.index(by.column_ref.fields[-1].string.sval))
            else:
                break
        return places

    def without_limit(self) -> str:
        """The statement's own words up to LIMIT, OFFSET or FETCH outside of parentheses."""
        depth = 0
        for token in postgast.scan(self._statement.numbered).tokens:
            depth += (token.token == pb.ASCII_40) - (token.token == pb.ASCII_41)
            if depth == 0 and token.token in (pb.LIMIT, pb.OFFSET, pb.FETCH):
                words = self._statement.numbered.encode()[: token.start].decode()
                return to_pyformat(words, self._statement)
        raise AssertionError("no LIMIT")


# -- plain PostgreSQL -------------------------------------------------------------------------------------------------

_TOKENS = re.compile(
    r"""(?P<skip>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::)"""
    r"""|(?P<escape>\\:)|(?<![\w:]):(?P<name>[A-Za-z_]\w*)|(?P<percent>%)""",
    re.DOTALL,
)


def pyformat(sql: str) -> str:
    """``:name`` to ``%(name)s``, by another way than the planner's."""

    def replace(match: re.Match[str]) -> str:
        if match["skip"]:
            return match["skip"].replace("%", "%%")
        if match["escape"]:
            return ":"
        return "%%" if match["percent"] else f"%({match['name']})s"

    return _TOKENS.sub(replace, sql)


def connect(url: str, config: Config) -> Any:
    """Return a connection with the settings that the router's have, in autocommit."""
    target = make_url(url)
    connection = psycopg2.connect(
        host=target.host,
        port=target.port,
        user=target.username,
        password=target.password,
        dbname=target.database,
        **connect_arguments(config, config.catalog),
    )
    connection.autocommit = True
    psycopg2.extras.register_uuid(conn_or_curs=connection)
    return connection


@contextlib.contextmanager
def open_oracle(urls: list[str], partitions: int = 8, **settings: Any) -> Iterator[Oracle]:
    """Make databases on the servers *urls*, one per shard and a plain one on the first, filled with `dataset`.

    *settings* are more keys of the configuration.
    """
    with databases(urls) as shards, databases(urls[:1]) as [plain_url]:
        document = {
            "keyspace": KEYSPACE,
            "partitions": partitions,
            "catalog": shards[0],
            "shards": {f"s{number}": {"url": url} for number, url in enumerate(shards)},
            **settings,
        }
        config = parse_config(document, source="oracle")
        for number, url in enumerate(shards):
            _spend_oids(url, config, 50 * number)
        Router.initialise(config)
        with Router(config) as router:
            router.create_schema(dataset.DDL, tables=dataset.TABLES)
            oracle = Oracle(router, lambda: connect(plain_url, config))
            with contextlib.closing(oracle.plain):
                _create_plain(oracle.plain)
                for table, rows in dataset.rows().items():
                    router.copy_into(table, rows)
                    _insert(oracle.plain, table, rows)
                yield oracle


def _spend_oids(url: str, config: Config, count: int) -> None:
    """Make the numbers of types differ from shard to shard, as they do in life."""
    with contextlib.closing(connect(url, config)) as connection, connection.cursor() as cursor:
        cursor.execute("create type spent as enum ('x'); drop type spent;" * count + "select 1")


def _create_plain(plain: Any) -> None:
    with plain.cursor() as cursor:
        cursor.execute(f"set check_function_bodies = off; create schema {KEYSPACE}; {dataset.DDL}")
        cursor.execute("set statement_timeout = '20s'")


def _insert(plain: Any, table: str, rows: Sequence[Row]) -> None:
    quoted = '"' + table + '"'
    with plain.cursor() as cursor:
        cursor.execute(
            "select format('cast(%%s as %%s)', '%%s', format_type(atttypid, atttypmod)), quote_ident(attname) "
            "from pg_attribute where attrelid = %s::regclass and attnum > 0 and attgenerated = '' order by attnum",
            (f"{KEYSPACE}.{quoted}",),
        )
        columns = cursor.fetchall()
        template = f"({', '.join(value for value, _ in columns)})"
        names = ", ".join(name for _, name in columns).replace("%", "%%")
        if rows:
            insert = f"insert into {KEYSPACE}.{quoted} ({names}) values %s"
            psycopg2.extras.execute_values(cursor, insert, rows, template)
