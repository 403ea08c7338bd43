"""INSERT .. SELECT as binary COPY between shards does what the way through texts does, which has its own oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool import Config, Router, Sharded
from shardpool.errors import SchemaDrift, UnsupportedStatement
from shardpool.executor import copied, sorting, writes
from shardpool.moves import move_partition
from shardpool.planner.writes import Copied, StagedInsert

ROWS = 60
#: type of the source -> expression of n; where a third is given, the type of the target.
KINDS = {
    "smallint": ("n",),
    "integer": ("-n",),
    "bigint": ("n * 5000000000",),
    "numeric": ("n / 7.0",),
    "numeric(12,4)": ("n / 7.0", "numeric(5,2)"),
    "real": ("n / 7.0",),
    "double precision": ("CASE n % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 7.0 END",),
    "text": ("repeat('ä''\\\t\n', n)",),
    "varchar(12)": ("'abc' || repeat(' ', n % 9)", "varchar(3)"),
    "char(6)": ("'abc'", "char(4)"),
    '"char"': ("'x'",),
    "name": ("'name ' || n",),
    "boolean": ("n % 2 = 0",),
    "date": ("CASE n % 9 WHEN 0 THEN 'infinity' ELSE date '0044-03-15 BC' + n END",),
    "time": ("time '23:59:59.999999'", "time(0)"),
    "timetz": ("'04:05:06.7+03'",),
    "timestamp": ("timestamp '2024-02-29 23:59:59.999999'", "timestamp(1)"),
    "timestamptz": ("CASE n % 9 WHEN 0 THEN '-infinity' ELSE timestamptz 'epoch' + n * interval '1 us' END",),
    "interval": ("n * interval '1 month 3 days 4.5 seconds'", "interval(0)"),
    "uuid": ("md5(n::text)::uuid",),
    "bytea": ("decode(md5(n::text), 'hex')",),
    "json": ("json_build_object('a', n, 'b', '  ')",),
    "jsonb": ("jsonb_build_object('a', n, 'b', NULL)",),
    "inet": ("inet '10.0.0.0/8' + n",),
    "bit(5)": ("n::bit(5)",),
    "varbit": ("n::bit(9)",),
    "point": ("point(n, n / 3.0)",),
    "int4range": ("int4range(n, n + 3)",),
    "text[]": ("ARRAY[n::text, NULL, '{}']",),
    "numeric[]": ("ARRAY[ARRAY[n / 7.0, 1], ARRAY[2, NULL]]",),
    "tsvector": ("to_tsvector('simple', 'some words ' || n)",),
    "money": ("n",),
    "xid8": ("n::text::xid8",),
}
NUMBERS = range(len(KINDS))
DDL = (
    "CREATE TABLE source (k bigint PRIMARY KEY, "
    + ", ".join(f"c{n} {kind}" for n, kind in enumerate(KINDS))
    + "); CREATE TABLE target (k bigint PRIMARY KEY, "
    + ", ".join(f"c{n} {(*found, kind)[1]}" for n, (kind, found) in enumerate(KINDS.items()))
    + ", given int NOT NULL DEFAULT 7 CHECK (given < 100));"
)
#: A table by a key of each type, and how to make another key of one.
KEYS = {
    "smallint": ("n", "k + 100::smallint"),
    "integer": ("n", "k + 100"),
    "bigint": ("n", "k + 100"),
    "text": ("'kä' || n", "k || '-'"),
    "varchar(8)": ("'k' || n", "CAST(k || '-' AS varchar)"),
    "uuid": ("md5(n::text)::uuid", "md5(k::text)::uuid"),
    "bytea": ("decode(md5(n::text), 'hex')", "k || '\\x00'::bytea"),
    "date": ("date '2024-01-01' + n", "k + 1000"),
}


@pytest.fixture(scope="module")
def router(shop: Router) -> Router:
    shop.create_schema(DDL, {"source": Sharded("k"), "target": Sharded("k")})
    for number, kind in enumerate(KEYS):
        shop.create_schema(f"CREATE TABLE by{number} (k {kind} PRIMARY KEY, n int)", {f"by{number}": Sharded("k")})
    shop.create_schema("CREATE TABLE pairs (a text, b int, n int, PRIMARY KEY (a, b))", {"pairs": Sharded(("a", "b"))})
    values = ", ".join(found[0] for found in KINDS.values())
    shop.query(f"INSERT INTO source SELECT n, {values} FROM generate_series(1, {ROWS}) n")
    shop.query("INSERT INTO source (k) VALUES (0)")
    return shop


@pytest.fixture
def taken(router: Router, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """For each INSERT that could be copied, whether it was. Afterwards all is as it was."""
    found: list[bool] = []

    def noted(*given: Any) -> Any:
        result = copied.copied(*given)
        found.append(result is not None)
        return result

    monkeypatch.setattr(writes, "copied", noted)
    yield found
    router.query("TRUNCATE target")
    assert all(stats.in_use == 0 for stats in router.stats().pools.values())


def placed(router: Router, table: str = "target", key: str = "k") -> list[tuple[Any, ...]]:
    """The rows of a table as texts, each from the partition where its key belongs."""
    found = []
    for placement in router.shard_map.placements:
        with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {key}, t::text FROM {placement.partition.schema}.{table} t")
            for *parts, row in cursor.fetchall():
                value = bytes(parts[0]) if isinstance(parts[0], memoryview) else parts[0]
                whole = value if len(parts) == 1 else tuple(parts)
                assert router.partition_of(whole, table) == placement.partition, row
                found.append(row)
    return sorted(found)


def outcome(router: Router, sql: str, table: str = "target") -> tuple[object, list[tuple[Any, ...]]]:
    """What an INSERT says, an SQLSTATE or a refusal, and what is there then; it is taken back."""
    said: object
    with router.transaction() as tx:
        try:
            said = tx.query(sql).rowcount  # type: ignore[attr-defined]
        except DBAPIError as error:
            said = getattr(error.orig, "pgcode", None)
        except UnsupportedStatement as error:
            said = error.code
        rows = sorted(tuple(row) for row in tx.query(f"SELECT t::text FROM {table} t")) if isinstance(said, int) else []
        tx.rollback()
    return said, rows


def both_ways(router: Router, sql: str, monkeypatch: pytest.MonkeyPatch, table: str = "target") -> object:
    by_copy = outcome(router, sql, table)
    with monkeypatch.context() as patch:
        patch.setattr(StagedInsert, "copied", lambda *given: None)
        assert outcome(router, sql, table) == by_copy
    return by_copy[0]


@pytest.mark.parametrize("number", NUMBERS, ids=[kind.replace(" ", "-") for kind in KINDS])
def test_a_value_of_each_kind(router: Router, taken: list[bool], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    both_ways(router, f"INSERT INTO target (k, c{number}) SELECT k + 1000, c{number} FROM source", monkeypatch)
    assert taken == [True, False]


@pytest.mark.parametrize("number", range(len(KEYS)), ids=[kind.partition("(")[0] for kind in KEYS])
def test_keys_of_each_type(router: Router, taken: list[bool], number: int) -> None:
    value, other = list(KEYS.values())[number]
    table = f"by{number}"
    router.query(f"INSERT INTO {table} SELECT {value}, n FROM generate_series(1, {ROWS}) n")
    before = len(placed(router, table))
    taken.clear()
    router.query(f"INSERT INTO {table} SELECT {other}, n FROM {table}")
    assert taken == [True] and len(placed(router, table)) == 2 * before == 2 * ROWS


def test_a_key_of_two_columns(router: Router, taken: list[bool]) -> None:
    router.query(f"INSERT INTO pairs SELECT 'a' || n, n, n FROM generate_series(1, {ROWS}) n")
    taken.clear()
    router.query("INSERT INTO pairs (n, b, a) SELECT n, b + 7, a FROM pairs")
    assert taken == [True] and len(placed(router, "pairs", "a, b")) == 2 * ROWS


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("INSERT INTO target (k, c7) SELECT k + 1000, repeat('x', 9) FROM source", ROWS + 1),
        ("INSERT INTO target (k, c8) SELECT k + 1000, CAST('abcdef' AS varchar) FROM source", "22001"),
        ("INSERT INTO target (k, c4) SELECT k + 1000, k * 1000000.0 FROM source", "22003"),
        ("INSERT INTO target (k, c24) SELECT k + 1000, k::int::bit(7) FROM source", "22026"),
        ("INSERT INTO target (k, given) SELECT k + 1000, k::int + 90 FROM source", "23514"),
        ("INSERT INTO target (k, given) SELECT k + 1000, NULLIF(k, 5)::int FROM source", "23502"),
        ("INSERT INTO target (k) SELECT k / 2 FROM source", "23505"),
        ("INSERT INTO target (k) SELECT 7 / (k - 3) FROM source", "22012"),
        ("INSERT INTO target (k) SELECT NULLIF(k, 5) + 1000 FROM source", "23502"),
        (
            "INSERT INTO by7 (k) SELECT CASE k WHEN 5 THEN 'infinity' ELSE date 'epoch' + k::int END FROM source",
            "SP132",
        ),
        ("INSERT INTO target (k) SELECT k + 1000 FROM source WHERE k < 0", 0),
    ],
)
def test_errors_are_the_same(
    router: Router, taken: list[bool], monkeypatch: pytest.MonkeyPatch, sql: str, expected: object
) -> None:
    assert both_ways(router, sql, monkeypatch, "by7" if "by7" in sql else "target") == expected


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO target (k, c0) SELECT k + 1000, c1 FROM source",  # of another type
        "INSERT INTO target (k) SELECT k + 1000 FROM source ON CONFLICT DO NOTHING",
        "INSERT INTO target (k) SELECT k + 1000 FROM source RETURNING k",
        "INSERT INTO target (k) SELECT max(k) + n FROM source, generate_series(1, 20) n GROUP BY n",
    ],
)
def test_what_cannot_be_copied_takes_the_other_way(router: Router, taken: list[bool], sql: str) -> None:
    router.query(sql)
    assert taken == [False] and placed(router)


def test_rows_that_do_not_stay_in_memory(router: Router, taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    spilled = []
    monkeypatch.setattr(sorting, "MEMORY", 3000)
    monkeypatch.setattr(sorting, "CHUNK", 500)
    monkeypatch.setattr(sorting, "MAX_KEYS", 3)
    monkeypatch.setattr(sorting, "_write", lambda *given, own=sorting._write: spilled.append(own(*given)))
    router.query("INSERT INTO target (k, c7, c14) SELECT k + 1000, c7, c14 FROM source")
    expected = {(key + 1000, value) for key, value in router.query("SELECT k, c7 FROM source")}
    assert {tuple(row) for row in router.query("SELECT k, c7 FROM target")} == expected
    assert taken == [True] and len(spilled) > 5 and len(placed(router)) == ROWS + 1


def test_a_transaction_reads_its_own_rows_and_can_take_them_back(router: Router, taken: list[bool]) -> None:
    copy = "INSERT INTO target (k) SELECT k + 1000 FROM source"
    with router.transaction() as tx:
        tx.query("INSERT INTO source (k) VALUES (900), (901)")
        with pytest.raises(KeyError), tx.savepoint():
            tx.query(copy)
            raise KeyError
        assert tx.query(copy).rowcount == ROWS + 3  # type: ignore[attr-defined]
        tx.query("DELETE FROM source WHERE k >= 900")
    assert taken == [True, True] and len(placed(router)) == ROWS + 3


@pytest.mark.parametrize(
    "sql", ["INSERT INTO target (k) SELECT k + 1000 FROM source", "INSERT INTO target (k) VALUES {}"]
)
def test_a_router_with_an_old_map(router: Router, config: Config, taken: list[bool], sql: str) -> None:
    """What it reads, and where it writes, has moved."""
    words = sql.format(", ".join(f"({key})" for key in range(1000, 1001 + ROWS)))
    with Router(config, listen=False) as stale:
        moved = stale.shard_map.placements[0]
        other = next(name for name in sorted(stale.shard_map.shards) if name != moved.shard)
        move_partition(router, moved.partition.id, other)
        assert stale.query(words).rowcount == ROWS + 1  # type: ignore[attr-defined]
    router.refresh()
    assert len(placed(router)) == ROWS + 1
    move_partition(router, moved.partition.id, moved.shard)


def test_columns_that_changed_under_the_router(
    router: Router, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bytes of an integer would be read as those of a real."""
    router.create_schema("CREATE TABLE odd (k bigint PRIMARY KEY, n int)", {"odd": Sharded("k")})
    for placement in router.shard_map.placements:
        with router.shard(placement.shard).engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {placement.partition.schema}.odd ALTER n TYPE real")
    copy = "INSERT INTO odd SELECT k + 1000, c1 FROM source WHERE k > 0"
    with pytest.raises(SchemaDrift, match="other types"):
        router.query(copy)
    assert router.query("SELECT count(*) FROM odd").scalar() == 0
    monkeypatch.setattr(copied, "_codes", lambda description: [])
    router.query(copy)
    assert router.query("SELECT max(n) FROM odd").scalar() != -1


def test_a_row_in_a_wrong_place_is_seen(router: Router, taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of these tests, judged."""
    monkeypatch.setattr(Copied, "place", lambda self, texts, topology: topology.shard_map.placements[0])
    router.query("INSERT INTO target (k) SELECT k + 1000 FROM source")
    with pytest.raises(AssertionError):
        placed(router)
