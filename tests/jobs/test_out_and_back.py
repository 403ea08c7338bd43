"""Tables of every shape out of a keyspace into files, and back into it: the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardpool import Router, read_config
from shardpool.bulk.digest import digest_in
from shardpool.errors import JobFailed, JobRefused
from shardpool.jobs import cancel_job, run_job
from shardpool.jobs.digest import digests_of
from shardpool.topology.names import quote
from tests.jobs.anonymise_tools import write_config
from tests.support.backends import databases, plain_connection

#: What has no place in Parquet, infinite and very old dates and NaN of a fixed scale, is in `out_of_range`.
TABLES = """
CREATE TYPE mood AS ENUM ('fine', 'so, "so"', E'back\\\\slash');
CREATE DOMAIN positive AS numeric(6,2) CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text, m mood);
CREATE TABLE numbers (
    k bigint PRIMARY KEY, small smallint, whole integer, free numeric, scaled numeric(12,2), tiny numeric(3,5),
    huge numeric(50,10), round numeric(5,-2), one real, two double precision, d positive, m money
);
INSERT INTO numbers SELECT n, n % 300, n * 1000, n / 7.0, n / 7.0, n / 1000000.0, n * 1e30, n * 250, n / 3.0, n / 3.0,
    n + 1, n FROM generate_series(0, 40) n;
INSERT INTO numbers (k, free, one, two) VALUES (-1, 'NaN', 'NaN', 'NaN'), (-2, 'Infinity', 'Infinity', '-Infinity'),
    (-3, 1.10, '-0', '-0'), (-4, 1.1, 1e-45, 5e-324), (-5, '-Infinity', 3.4028235e38, 1.7976931348623157e308);
CREATE TABLE texts (k bigint PRIMARY KEY, t text, v varchar(9), c char(4), "select ""a"" %s" text, b bytea, e mood);
INSERT INTO texts VALUES (1, '', '', '', '', '', 'fine'), (2, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, E'tab\\t line\\n return\\r both\\r\\n', '\\N', '\\.', 'NULL', '\\x00ff0a', 'so, "so"'),
    (4, '"quoted", and ''so''', ' pad ', 'ab', '\\', '\\x5c4e', E'back\\\\slash'),
    (5, '\\N', ',', '"', '#N/A', '\\x', NULL),
    (6, E'\\u2028 \\u0085 \\x01 \\x7f 日本 é e\\u0301', 'nan', 't', 'true', '\\xe9', NULL);
INSERT INTO texts VALUES (7, repeat('long "', 50000));
CREATE TABLE others (
    k bigint PRIMARY KEY, yes boolean, u uuid, j json, jb jsonb, i inet, s interval, tags text[], nested int[][],
    r int4range, rs datemultirange, p pair, ps pair[], z bit varying, q point, x tsvector, mac macaddr,
    twice bigint GENERATED ALWAYS AS (k * 2) STORED
);
INSERT INTO others VALUES (1, true, '00000000-0000-4000-8000-000000000001', '{"a":1.0, "a" : 2}',
    '{"a": [1.00, null]}',
    '10.0.0.1/8', '1 year -2 mons 3 days -04:05:06.789', ARRAY['a', NULL, 'NULL', '', E'\\\\ "q" {,}\\n'],
    '{{1,NULL},{3,4}}',
    '[1,5)', '{[2024-01-01,2024-02-01),(,2020-01-01)}', ROW(1, E'a,"\\t', 'so, "so"'),
    ARRAY[ROW(NULL, '', NULL)::pair, NULL], '1011', '(1.5,-2)', 'a:1 b', '08:00:2b:01:02:03'),
    (3, false, NULL, 'null', '"1"', '::1', '00:00', '{}', '{}', 'empty', '{}',
    ROW(NULL, NULL, NULL), '{}', '', NULL, '', NULL);
INSERT INTO others VALUES (2);
CREATE TABLE times (
    k bigint PRIMARY KEY, d date, t timestamp, z timestamptz, c time, cz timetz, precise timestamp(3),
    short timestamptz(0)
);
INSERT INTO times SELECT n, '2024-02-29'::date + n * 40000,
    '2024-02-29 12:00:00.123456'::timestamp + n * interval '11 years',
    '1970-01-01 00:00:00.000001+00'::timestamptz + n * interval '9 years', '23:59:59.999999', '12:00:00+05:45',
    '2024-02-29 12:00:00.123456', '2024-02-29 12:00:00.6+02' FROM generate_series(0, 40) n;
INSERT INTO times (k, d, t, c) VALUES (-1, '0001-01-01', '9999-12-31 23:59:59.999999', '24:00'),
    (-2, '9999-12-31', NULL, NULL);
CREATE TABLE lone (k text PRIMARY KEY);
INSERT INTO lone VALUES (''), ('\\N'), ('\\.'), ('"'), (','), ('NULL'), (E'\\n'), (' ');
CREATE TABLE words (code text, PRIMARY KEY (code));
CREATE TABLE nulls (w text);
INSERT INTO nulls VALUES (NULL), (''), (NULL), ('x');
CREATE TABLE "table" (k bigint PRIMARY KEY, "a.b ""c"" 'd' %(e)s" text, "Order" int);
INSERT INTO "table" SELECT n, 'v' || n, n FROM generate_series(1, 20) n;
CREATE TABLE empty_one (k bigint PRIMARY KEY, v text);
CREATE TABLE out_of_range (k bigint PRIMARY KEY, d date, t timestamp, z timestamptz, n numeric(5,2));
INSERT INTO out_of_range VALUES (1, 'infinity', '-infinity', 'infinity', 'NaN'),
    (2, '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 BC', 1),
    (3, '10000-01-01', '294276-12-31 23:59:59', '1500-01-01', 1);
"""
REFERENCES = ("words", "nulls")
WIDE = 1600
STEPS: list[dict[str, Any]] = [{}, {"transform": {"python": "same.py:rows"}}, {"transform": {"arrow": "same.py:table"}}]


@pytest.fixture(scope="module")
def place(server_urls: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A keyspace that the tables have moved into."""
    with databases(server_urls[:2]) as urls, databases(server_urls[2:3]) as [old]:
        connection = plain_connection(old)
        with connection.cursor() as cursor:
            cursor.execute(TABLES)
            columns = ", ".join(f"c{n} smallint" for n in range(1, WIDE))
            cursor.execute(f"CREATE TABLE wide (k bigint PRIMARY KEY, {columns})")
            cursor.execute(f"INSERT INTO wide (k, c1, c{WIDE - 1}) SELECT n, n, -n FROM generate_series(1, 20) n")
            cursor.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
            names = [name for (name,) in cursor.fetchall()]
        connection.close()
        path = write_config(tmp_path_factory.mktemp("odd") / "cluster.toml", urls, "odd", partitions=4)
        Router.initialise(read_config(path))
        with Router.from_file(path, listen=False) as router:
            tables = {name: {"reference": True} if name in REFERENCES else {"key": "k"} for name in names}
            spec = {"job": "import", "name": "in", "from": {"url": old, "frozen": True}, "tables": tables}
            run_job(router, {**spec, "run": {"chunk_rows": 15}})
            router.refresh()
            yield router


def back(router: Router, name: str, files: str) -> None:
    """Replace the rows of a table by those of files."""
    load = {"table": name, "mode": "replace"}
    job = {"job": "etl", "name": "back", "extract": {"files": [files]}, "load": load, "run": {"chunk_rows": 7}}
    run_job(router, job)


def test_what_parquet_has_not_is_told(place: Router, tmp_path: Path) -> None:
    to = {"directory": str(tmp_path / "out"), "format": "parquet"}
    with pytest.raises(JobFailed, match="out_of_range has values that Parquet has not") as caught:
        run_job(place, {"job": "export", "name": "odd", "tables": ["out_of_range"], "to": to})
    cancel_job(place, "odd")
    assert "infinity" not in str(caught.value)


def names_of(router: Router) -> list[str]:
    return sorted(router.topology.tables)


def digests(router: Router) -> dict[str, Any]:
    return dict(digests_of(router, router.topology.tables))


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_files(place: Router, tmp_path: Path, format: str) -> None:
    names = [name for name in names_of(place) if format == "csv" or name != "out_of_range"]
    before = digests(place)
    to = {"directory": str(tmp_path / "out"), "format": format}
    run_job(place, {"job": "export", "name": "out", "tables": names, "to": to, "run": {"chunk_rows": 10}})
    assert sorted(it.name for it in (tmp_path / "out").iterdir()) == sorted(names)
    for name in names:
        if name == "empty_one":
            continue
        back(place, name, f"{tmp_path}/out/{name.replace('[', '[[]')}/*.{format}")
        assert (name, digests(place)[name]) == (name, before[name])


def test_one_database(place: Router, server_urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an export, and then by queries, as they are and through functions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.py").write_text("def rows(rows):\n    return rows\n\ndef table(table):\n    return table\n")
    with databases(server_urls[2:3]) as [url]:
        done = run_job(place, {"job": "export", "name": "one", "to": {"url": url}, "run": {"chunk_rows": 10}})
        assert sorted(done.checks["verified_rows"]) == names_of(place)
        expected = there(place, url)
        for steps in STEPS:
            for name in names_of(place):
                if name == "others" or (name == "out_of_range" and "arrow" in steps.get("transform", {})):
                    continue
                load: dict[str, Any] = {"url": url, "table": name, "mode": "replace"}
                job = {"job": "etl", "name": "etl", "extract": {"table": name}, "load": load, **steps}
                run_job(place, {**job, "run": {"chunk_rows": 20}})
            assert (steps, there(place, url)) == (steps, expected)


def test_computed_columns_are_not_loaded(place: Router, server_urls: list[str]) -> None:
    job = {"job": "etl", "name": "etl", "extract": {"table": "others"}, "load": {"table": "others", "mode": "replace"}}
    with pytest.raises(JobRefused, match="others computes twice by itself: name the other columns"):
        run_job(place, job)


def there(router: Router, url: str) -> dict[str, Any]:
    connection = plain_connection(url)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        found = {it.name: digest_in(cursor, quote(it.name), it.columns) for it in router.topology.tables.values()}
    connection.close()
    return found
