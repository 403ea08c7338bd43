"""Moving in tables of every shape: keys of each type, odd values and names, rows whose key names no partition."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from shardpool import Router, read_config
from shardpool.bulk import binary, database_source
from shardpool.bulk.digest import digest_in
from shardpool.errors import JobFailed
from shardpool.jobs import run_job
from shardpool.jobs.digest import digests_of
from tests.jobs.anonymise_tools import write_config
from tests.jobs.import_tools import rows_in
from tests.support.backends import databases, plain_connection

ODD = """
CREATE TYPE mood AS ENUM ('fine', 'so so');
CREATE TABLE "a.b ""c"" 'd' %s" ("k.""1""%" bigint PRIMARY KEY, "v:x" text, "%(y)s" text, "z\\z" text);
INSERT INTO "a.b ""c"" 'd' %s" SELECT n, 'x', 'y', 'z' FROM generate_series(1, 90) n;
CREATE TABLE "Mixed Case" ("Id" integer PRIMARY KEY, "a ""quoted"" name" text, "select" interval);
INSERT INTO "Mixed Case" SELECT n, E'tab\\t, line\\n, back\\\\slash, \\\\N ' || n, n * interval '1.5 hours'
    FROM generate_series(-300, 300) n;
CREATE TABLE by_small (k smallint, d double precision, n numeric, b boolean, PRIMARY KEY (k));
INSERT INTO by_small SELECT k, k / 3.0, k / 7.0, k % 2 = 0 FROM generate_series(-200, 200) k;
UPDATE by_small SET n = 'NaN', d = 'NaN' WHERE k = 1; UPDATE by_small SET n = 'Infinity', d = '-Infinity' WHERE k = 2;
UPDATE by_small SET n = 1.10, d = '-0' WHERE k = 3;
CREATE TABLE by_big (filler text, k bigint, PRIMARY KEY (k));
INSERT INTO by_big VALUES (NULL, 9223372036854775807), ('', -9223372036854775808), ('0', 0), ('minus', -1);
CREATE TABLE by_text (k text PRIMARY KEY, v text);
INSERT INTO by_text VALUES ('', NULL), (' ', ''), (E'tab\\t', '\\N'), ('日本', 'é'), (repeat('long', 5000), 'x');
CREATE TABLE by_varchar (k varchar(5) PRIMARY KEY, c char(4));
INSERT INTO by_varchar VALUES ('ab', 'x'), ('ab   ', 'xy'), ('', NULL);
CREATE TABLE by_uuid (at timestamptz, k uuid PRIMARY KEY, j jsonb);
INSERT INTO by_uuid SELECT CASE n WHEN 1 THEN 'infinity' WHEN 2 THEN '0044-03-15 BC' ELSE '2024-01-01'::timestamptz END,
    md5(n::text)::uuid, jsonb_build_object('n', n, 't', E'a\\tb') FROM generate_series(1, 50) n;
CREATE TABLE by_bytes (k bytea PRIMARY KEY);
INSERT INTO by_bytes SELECT decode(md5(n::text), 'hex') FROM generate_series(1, 50) n UNION ALL SELECT '';
CREATE TABLE by_date (d date PRIMARY KEY, i inet, t time);
INSERT INTO by_date SELECT '2000-01-01'::date + n * 7, '10.0.0.1', '12:00' FROM generate_series(-100, 100) n;
CREATE TABLE composite (a text, x int, b bigint, c date, PRIMARY KEY (c, a, b));
INSERT INTO composite SELECT repeat('k', n % 5), n, n, '2024-02-29' FROM generate_series(1, 200) n;
CREATE TABLE no_primary (k bigint NOT NULL, v text);
INSERT INTO no_primary SELECT n % 10, 'twice' FROM generate_series(1, 100) n;
CREATE TABLE as_text (k bigint PRIMARY KEY, tags text[], m mood, r int4range, g int GENERATED ALWAYS AS (2) STORED);
INSERT INTO as_text SELECT n, ARRAY['a', NULL, E'\\\\'], 'so so', int4range(1, n) FROM generate_series(1, 100) n;
CREATE DOMAIN "Positive" AS numeric(6,2) DEFAULT 1.5 NOT NULL
    CONSTRAINT "more than 0" CHECK (VALUE > 0) CHECK (VALUE < 99);
CREATE DOMAIN word AS text COLLATE "C";
CREATE TYPE pair AS (a int, "B" varchar(5) COLLATE "C", m mood, p "Positive"[]);
CREATE TABLE of_types (k bigint PRIMARY KEY, d "Positive", w word, p pair, ps pair[]);
INSERT INTO of_types (k, w, p, ps) VALUES (1, '', NULL, '{}'), (2, NULL, ROW(NULL, NULL, NULL, NULL), '{NULL}'),
    (3, 'w', ROW(1, E'a,"\\t', 'so so', '{1,2.50}'), ARRAY[ROW(2, '', 'fine', '{}')::pair, NULL]);
CREATE TABLE counted (k bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, g int GENERATED ALWAYS AS (7) STORED);
INSERT INTO counted (v) SELECT n::text FROM generate_series(1, 30) n;
CREATE TABLE empty_one (k bigint PRIMARY KEY, v text);
CREATE TABLE words (code varchar(3) PRIMARY KEY, n numeric(5,2));
INSERT INTO words VALUES ('a', 1), ('b', NULL);
"""
KEYS = {
    "a.b \"c\" 'd' %s": ('k."1"%',),
    "Mixed Case": ("Id",),
    "by_small": ("k",),
    "by_big": ("k",),
    "by_text": ("k",),
    "by_varchar": ("k",),
    "by_uuid": ("k",),
    "by_bytes": ("k",),
    "by_date": ("d",),
    "composite": ("b", "a"),
    "no_primary": ("k",),
    "as_text": ("k",),
    "of_types": ("k",),
    "counted": ("k",),
    "empty_one": ("k",),
    "words": (),
}


@pytest.fixture
def old(server_urls: list[str]) -> Iterator[str]:
    with databases(server_urls[2:3]) as [url]:
        execute(url, ODD)
        yield url


@pytest.fixture
def router(server_urls: list[str], tmp_path: Path) -> Iterator[Router]:
    with databases(server_urls[:2]) as urls:
        config = write_config(tmp_path / "cluster.toml", urls, "shop", partitions=8)
        Router.initialise(read_config(config))
        with Router.from_file(config, listen=False) as router:
            yield router


def execute(url: str, sql: str) -> None:
    connection = plain_connection(url)
    with connection.cursor() as cursor:
        cursor.execute(sql)
    connection.close()


def spec(url: str, keys: dict[str, tuple[str, ...]] = KEYS, **more: object) -> dict[str, object]:
    tables = {name: {"key": list(key)} if key else {"reference": True} for name, key in keys.items()}
    where = {"url": make_url(url).render_as_string(), "frozen": True}
    return {"job": "import", "name": "odd", "from": where, "tables": tables, "run": {"chunk_rows": 50}, **more}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check(router: Router, url: str, table: str, key: tuple[str, ...]) -> None:
    """The rows are the same, and each lies in the partition that a search by its key looks at."""
    found = sorted(row[0] for row in router.query(f"SELECT t::text FROM {quoted(table)} t"))
    assert (table, found) == (table, rows_in(url, quoted(table)))
    if not key:
        return
    names = ", ".join(map(quoted, key))
    where = " AND ".join(f"{quoted(name)} = :k{number}" for number, name in enumerate(key))
    for row in router.query(f"SELECT {names}, count(*) FROM {quoted(table)} GROUP BY {names}"):
        *values, count = (bytes(it) if isinstance(it, memoryview) else it for it in row)
        parameters = {f"k{number}": value for number, value in enumerate(values)}
        pinned = tuple(values) if len(values) > 1 else values[0]
        one = router.execute(pinned, f"SELECT count(*) FROM {quoted(table)} WHERE {where}", parameters)
        assert (table, values, one.scalar_one()) == (table, values, count)


def test_every_shape(router: Router, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    binary_rows = []
    real = database_source.copy_out

    def counted(cursor: object, query: str) -> list[bytes]:
        binary_rows.extend(found := real(cursor, query))
        return found

    monkeypatch.setattr(database_source, "copy_out", counted)
    result = run_job(router, spec(old))
    router.refresh()
    for table, key in KEYS.items():
        check(router, old, table, key)
    assert result.checks["verified_rows"]["as_text"] == 100
    assert len(binary_rows) == sum(result.checks["verified_rows"].values()) - 100 - 3
    for wrong in ("-1", "NULL", "99"):
        with pytest.raises(IntegrityError, match="Positive"):
            router.execute(9, f"INSERT INTO of_types (k, d) VALUES (9, {wrong})")
    router.execute(9, "INSERT INTO of_types (k, p) VALUES (9, ROW(1, 'b', 'fine', '{}'))")
    assert router.execute(9, "SELECT d::text FROM of_types WHERE k = 9").scalar_one() == "1.50"
    comparing = "SELECT collation for (w) || ' ' || collation for ((p).\"B\") FROM of_types WHERE k = 9"
    assert router.execute(9, comparing).scalar_one() == '"C" "C"'


def test_every_shape_goes_out_again(router: Router, old: str, server_urls: list[str], tmp_path: Path) -> None:
    run_job(router, spec(old))
    router.refresh()
    with databases(server_urls[2:3]) as [url]:
        run_job(router, {"job": "export", "name": "out", "to": {"url": url}, "run": {"chunk_rows": 40}})
        for table in KEYS:
            assert (table, rows_in(url, quoted(table))) == (table, rows_in(old, quoted(table)))
    for number, table in enumerate(KEYS):
        columns = [it.name for it in router.topology.tables[table].columns if not it.generated]
        query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)}"
        # Partition by partition, and as a whole: the same texts.
        found = [
            extracted(router, tmp_path / f"{number}{more}", query + more) for more in ("", " ORDER BY 1 LIMIT 9999")
        ]
        assert (table, found[0]) == (table, found[1])
    parquet = {"directory": str(tmp_path / "parquet"), "format": "parquet"}
    with pytest.raises(JobFailed, match="values that Parquet has not") as caught:
        run_job(router, {"job": "export", "name": "by-uuid", "tables": ["by_uuid"], "to": parquet})
    assert "infinity" not in str(caught.value)


def test_odd_names_are_written_over(router: Router, old: str) -> None:
    name = "a.b \"c\" 'd' %s"
    run_job(router, spec(old, tables={**skipped(name), name: {"key": 'k."1"%'}}))
    router.query(f"UPDATE {quoted(name)} SET \"v:x\" = 'changed'")
    where = {"url": make_url(old).render_as_string(), "table": name}
    load = {"table": name, "mode": "upsert"}
    run_job(router, {"job": "etl", "name": "over", "extract": where, "load": load, "run": {"chunk_rows": 40}})
    check(router, old, name, ('k."1"%',))


def extracted(router: Router, folder: Path, query: str) -> list[list[str]]:
    job = {"job": "etl", "name": "extract", "extract": {"query": query}, "load": {"directory": str(folder)}}
    run_job(router, job)
    texts = [path.read_bytes().decode() for path in folder.rglob("*.csv")]
    return sorted(row for text in texts for row in list(csv.reader(io.StringIO(text, newline="")))[1:])


def test_a_key_without_a_partition_is_told(router: Router, old: str, tmp_path: Path) -> None:
    """In the binary format and as text the same row is found, by its key; the others arrive."""
    execute(old, "INSERT INTO by_date VALUES ('infinity', NULL, '13:00'); INSERT INTO by_date VALUES ('0044-01-01 BC')")
    with pytest.raises(JobFailed, match=r"by_date \(d\)=\((infinity|0044-01-01 BC)\)"):
        run_job(router, spec(old, tables={**skipped("by_date"), "by_date": {"key": "d"}}))


def test_a_value_that_is_refused_is_told(router: Router, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keyspace refuses a row that the old database has: a check that was not validated there."""
    execute(old, "ALTER TABLE counted ADD CONSTRAINT short CHECK (v <> '17') NOT VALID")
    monkeypatch.setattr("shardpool.jobs.migrate.schema._added", lambda *_: [])
    job = spec(old, tables={**skipped("counted"), "counted": {"key": "k"}})
    with pytest.raises(JobFailed, match=r"counted \(k\)=\(17\)"):
        run_job(router, job)


def skipped(*but: str) -> dict[str, dict[str, bool]]:
    return {name: {"skip": True} for name in KEYS if name not in but}


@pytest.mark.parametrize("fault", ["lost", "twice", "flipped"])
def test_rows_that_change_on_their_way_are_found_out(
    router: Router, old: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real = database_source.copy_out

    def broken(cursor: object, query: str) -> list[bytes]:
        rows = real(cursor, query)
        if fault == "lost":
            return rows[1:]
        if fault == "twice":
            return [*rows, rows[0]]
        last = bytearray(rows[0])
        last[-1] ^= 1
        return [bytes(last), *rows[1:]]

    monkeypatch.setattr(database_source, "copy_out", broken)
    with pytest.raises(JobFailed, match="the rows differ, do not switch over"):
        run_job(router, spec(old, tables={**skipped("no_primary"), "no_primary": {"key": "k"}}))


class Cursor:
    """What a server, or something between, might send."""

    def __init__(self, rows: int, *messages: bytes) -> None:
        self.rowcount, self._messages = rows, messages

    def copy_expert(self, query: str, file: object) -> None:
        for message in self._messages:
            file.write(message)  # type: ignore[attr-defined]


ROW = b"\0\1\0\0\0\1x"


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        (1, [ROW, binary.TRAILER]),
        (2, [binary.HEADER + ROW + ROW, binary.TRAILER]),
        (1, [binary.HEADER + ROW]),
        (1, [binary.HEADER + ROW + binary.TRAILER]),
        (1, []),
        (1, [binary.HEADER + ROW[:3], ROW[3:], binary.TRAILER]),
    ],
)
def test_streams_that_are_not_one_row_each(rows: int, messages: list[bytes]) -> None:
    with pytest.raises(ValueError, match="binary COPY stream"):
        binary.copy_out(Cursor(rows, *messages), "SELECT")
    assert binary.copy_out(Cursor(1, binary.HEADER + ROW, binary.TRAILER), "SELECT") == [ROW]
    assert binary.copy_out(Cursor(0, binary.HEADER + binary.TRAILER), "SELECT") == []


def test_another_encoding(router: Router, server_urls: list[str]) -> None:
    """Of an older database: its texts have other bytes, and are the same. It takes them back, too."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    create = f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc"
    execute(server_urls[2], f"{create} TEMPLATE template0")
    url = make_url(server_urls[2]).set(database=name).render_as_string(hide_password=False)
    try:
        execute(url, "CREATE TABLE t (k varchar(9) PRIMARY KEY, v text, tags text[])")
        execute(
            url, "INSERT INTO t SELECT U&'\\00e9' || n, U&'\\00fc', ARRAY[U&'\\00df'] FROM generate_series(1, 90) n"
        )
        assert run_job(router, spec(url, {"t": ("k",)})).checks["verified_rows"] == {"t": 90}
        router.refresh()
        assert router.execute("é7", "SELECT v, tags FROM t WHERE k = 'é7'").one() == ("ü", ["ß"])
        execute(url, "CREATE SCHEMA back")
        to = {"url": url, "schema": "back"}
        assert run_job(router, {"job": "export", "name": "out", "to": to}).checks["verified_rows"] == {"t": 90}
        execute(url, "UPDATE back.t SET v = U&'\\00e4' WHERE k = U&'\\00e97'")
        digests = digests_of(router, router.topology.tables)["t"][0]
        connection = plain_connection(url)
        connection.set_client_encoding("UTF8")
        with connection.cursor() as cursor:
            columns = router.topology.tables["t"].columns
            assert digest_in(cursor, "t", columns) == digests != digest_in(cursor, "back.t", columns)
        connection.close()
    finally:
        execute(server_urls[2], f"DROP DATABASE {name} WITH (FORCE)")
