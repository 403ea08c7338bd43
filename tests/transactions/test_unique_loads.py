"""Rows that are loaded into tables with unique columns: their reservations come with them, or nothing is loaded."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shardpool import Router, Sharded
from shardpool.bulk import LoadResult, copy_into, reserve
from shardpool.errors import (
    BadRow,
    CrossShardDeadlock,
    JobFailed,
    JobRefused,
    SchemaError,
    StalePlacement,
    UnsupportedStatement,
)
from shardpool.jobs import resume_job, run_job
from shardpool.jobs.digest import differing_reservations
from shardpool.moves import move_partition
from shardpool.topology.names import quote
from tests.support.waiting import eventually

DDL = """
CREATE TABLE members (
    member_id bigint NOT NULL, line int NOT NULL, email text, nick varchar(10), title text DEFAULT 'none',
    PRIMARY KEY (member_id, line)
);
CREATE TABLE emails (email text PRIMARY KEY, member_id bigint NOT NULL);
CREATE TABLE nicks (nick varchar(10) PRIMARY KEY, member_id bigint NOT NULL);
CREATE TABLE titled (id bigint PRIMARY KEY, title text DEFAULT 'none');
CREATE TABLE titles (title text PRIMARY KEY, id bigint NOT NULL);
CREATE TABLE pairs (a text NOT NULL, b int NOT NULL, code text, PRIMARY KEY (a, b));
CREATE TABLE codes (code text PRIMARY KEY, a text NOT NULL, b int NOT NULL);
"""
TABLES = {
    "members": Sharded("member_id", {"email": "emails", "nick": "nicks"}),
    "emails": Sharded("email"),
    "nicks": Sharded("nick"),
    "titled": Sharded("id", {"title": "titles"}),
    "titles": Sharded("title"),
    "pairs": Sharded(("a", "b"), {"code": "codes"}),
    "codes": Sharded("code"),
}


@pytest.fixture(scope="module")
def opened(shop: Router) -> Router:
    shop.create_schema(DDL, TABLES)
    return shop


@pytest.fixture
def club(opened: Router) -> Iterator[Router]:
    for names in ("members, emails, nicks", "titled, titles", "pairs, codes"):
        opened.query(f"TRUNCATE {names}")
    yield opened
    assert all(stats.in_use == 0 for stats in opened.stats().pools.values())
    with opened.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))


def reserved(router: Router, table: str) -> list[Any]:
    """What the one table of reservations has; it agrees with its rows, and routes to them."""
    assert differing_reservations(router.engines, router.topology) == {}
    return sorted(tuple(row) for row in router.query(f"SELECT * FROM {table}"))


def test_rows(club: Router) -> None:
    rows = [(n, 1, f"m{n}@x" if n % 3 else None, f"n{n}" if n % 2 else None) for n in range(300)]
    loaded = club.copy_into("members", rows, columns=("member_id", "line", "email", "nick"), batch_bytes=500)
    assert loaded.rows == sum(loaded.partitions.values()) == 300
    assert reserved(club, "emails") == sorted((f"m{n}@x", n) for n in range(300) if n % 3)
    assert reserved(club, "nicks") == sorted((f"n{n}", n) for n in range(300) if n % 2)
    assert club.find_key("members", email="m7@x") == 7


def test_a_csv_file(club: Router, tmp_path: Path) -> None:
    """Quotes, line ends in values, NULL and the empty text; the columns in another order."""
    path = tmp_path / "members.csv.gz"
    lines = ['nick,"email",line,member_id', '"a, b",x@x,1,1', ",,1,2", '"","y ""z""\ny@x",1,3', "last,,1,4"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert club.copy_into("members", path).rows == 4
    assert reserved(club, "nicks") == [("", 3), ("a, b", 1), ("last", 4)]
    assert reserved(club, "emails") == [("x@x", 1), ('y "z"\ny@x', 3)]


def test_a_text_file(club: Router, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"a\\tb\t1\tc\\\\d\nb\t2\t\\N\nc\t3\t\\x41\\\tB\n")
    assert club.copy_into("pairs", path, format="text").rows == 3
    assert reserved(club, "codes") == [("A\tB", "c", 3), ("c\\d", "a\tb", 1)]


def test_columns_that_are_left_out(club: Router) -> None:
    club.copy_into("members", [(1, 1)], columns=("member_id", "line"))
    with pytest.raises(UnsupportedStatement, match=r"SP139.*default of title, which the rows do not have"):
        club.copy_into("titled", [(1,)], columns=("id",))
    club.copy_into("titled", [(1, "mine")])
    assert reserved(club, "titles") == [("mine", 1)] and reserved(club, "emails") == []


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([(5, 1, "new"), (6, 1, "there")], 2),
        ([(5, 1, "same"), (6, 1, "other"), (7, 1, "same")], None),
        ([(5, 1, None), (6, 1, "x"), (6, 1, "y")], 3),
    ],
)
def test_a_value_is_there_once(club: Router, rows: list[Any], line: int | None) -> None:
    club.query("INSERT INTO members (member_id, line, email) VALUES (1, 1, 'there')")
    with pytest.raises(BadRow, match="already exists") as caught:
        club.copy_into("members", rows, columns=("member_id", "line", "email"))
    assert line is None or caught.value.line == line
    assert reserved(club, "emails") == [("there", 1)]
    assert club.query("SELECT count(*) FROM members").scalar() == 1


def trigger(router: Router, words: str) -> None:
    for shard, partitions in router.shard_map.by_shard().items():
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            for partition in partitions:
                cursor.execute(words.replace("titled", f"{quote(partition.schema)}.titled"))
            connection.commit()


def test_a_trigger_that_stores_another_value(club: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in club.shard_map.shards:
        with club.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE OR REPLACE FUNCTION shop.louder() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN NEW.title = upper(NEW.title); RETURN NEW; END'"
            )
            connection.commit()
    trigger(club, "CREATE TRIGGER louder BEFORE INSERT ON titled FOR EACH ROW EXECUTE FUNCTION shop.louder()")
    try:
        with pytest.raises(UnsupportedStatement, match=r"SP139.*trigger louder"):
            club.copy_into("titled", [(1, "mine")])
        assert reserved(club, "titles") == []
        monkeypatch.setattr(reserve, "_check_unaltered", lambda *given: None)
        club.copy_into("titled", [(1, "mine")])
        assert differing_reservations(club.engines, club.topology) == {"titles": (1, 1)}
    finally:
        trigger(club, "DROP TRIGGER louder ON titled")


def etl(folder: Path, rows: str, **load: str) -> dict[str, Any]:
    (folder / "rows.csv").write_text(rows)
    extract = {"files": ["rows.csv"]}
    return {"job": "etl", "name": "club", "extract": extract, "load": {"table": "members", **load}}


def test_a_job_reserves_what_it_loads(club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n},1,m{n}@x,{f'n{n}' if n % 2 else ''}\n" for n in range(200))
    job = etl(tmp_path, "member_id,line,email,nick\n" + rows)
    job["run"] = {"chunk_rows": 30}
    run_job(club, job)
    assert reserved(club, "emails") == sorted((f"m{n}@x", n) for n in range(200))
    assert reserved(club, "nicks") == sorted((f"n{n}", n) for n in range(200) if n % 2)


def test_a_row_that_a_job_leaves_out_reserves_nothing(
    club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    club.query("INSERT INTO members VALUES (1, 1, 'there', NULL)")
    job = etl(tmp_path, "member_id,line,email,nick\n1,1,again@x,\n2,1,b@x,much too long a name\n3,1,c@x,c\n")
    job["bad_rows"] = {"max": 2, "directory": "rejects"}
    assert run_job(club, job).progress.rejected == 2
    assert reserved(club, "emails") == [("c@x", 3), ("there", 1)] and reserved(club, "nicks") == [("c", 3)]


def test_a_value_that_is_there_stops_a_job(club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    club.query("INSERT INTO members VALUES (1, 1, 'there', NULL)")
    with pytest.raises(JobFailed, match="emails_pkey"):
        run_job(club, etl(tmp_path, "member_id,line,email,nick\n2,1,b@x,b\n3,1,there,c\n"))
    assert reserved(club, "emails") == [("there", 1)] and reserved(club, "nicks") == []


def test_rows_are_replaced_with_their_reservations(
    club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    club.query("INSERT INTO members VALUES (1, 1, 'there', 'a')")
    run_job(club, etl(tmp_path, "member_id,line,email,nick\n2,1,there,b\n", mode="replace"))
    assert reserved(club, "emails") == [("there", 2)] and reserved(club, "nicks") == [("b", 2)]


def test_jobs_that_could_not_keep_reservations_are_refused_before_any_row_goes(
    club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    club.query("INSERT INTO members VALUES (1, 1, 'there', 'a')")
    rows = "member_id,line,email,nick\n2,1,there,b\n"
    for load in ({"mode": "upsert"}, {"table": "emails", "mode": "replace"}, {"table": "emails"}):
        with pytest.raises(JobRefused, match="unique columns"):
            run_job(club, etl(tmp_path, rows, **load))
    anonymise = {"job": "anonymise", "name": "club", "secret": {"env": "SECRET"}, "to": {"config": "other.toml"}}
    with pytest.raises(JobRefused, match="unique columns"):
        run_job(club, anonymise)
    assert reserved(club, "emails") == [("there", 1)]


def test_a_table_that_exists_gets_no_unique_columns_by_declaring_them(club: Router) -> None:
    """It would be taken for unique, and not be."""
    customers = "CREATE TABLE customer_names (name text PRIMARY KEY, customer_id bigint NOT NULL)"
    kinds = {"customers": Sharded("customer_id", {"name": "customer_names"}), "customer_names": Sharded("name")}
    with pytest.raises(SchemaError, match=r"SP214.*name; it exists with: none"):
        club.create_schema(customers, kinds)
    with pytest.raises(SchemaError, match=r"SP214.*none; it exists with: email, nick"):
        club.create_schema(DDL, {**TABLES, "members": Sharded("member_id")})
    assert "customer_names" not in club.topology.tables
    assert all(it.state == "unchanged" for it in club.create_schema(DDL, TABLES))


def test_the_way_for_a_table_that_is_filled(club: Router) -> None:
    """What is there twice is told, and then nothing is moved."""
    club.create_schema(
        "CREATE TABLE old (id bigint PRIMARY KEY, code text); CREATE TABLE new (id bigint PRIMARY KEY, code text); "
        "CREATE TABLE new_codes (code text PRIMARY KEY, id bigint NOT NULL)",
        {"old": Sharded("id"), "new": Sharded("id", {"code": "new_codes"}), "new_codes": Sharded("code")},
    )
    club.query("INSERT INTO old SELECT n, 'c' || n % 99 FROM generate_series(1, 100) n")
    with pytest.raises(IntegrityError, match="new_codes_pkey"):
        club.query("INSERT INTO new SELECT * FROM old")
    assert club.query("SELECT count(*) FROM new").scalar() == 0
    club.query("DELETE FROM old WHERE id = 100")
    club.query("INSERT INTO new SELECT * FROM old")
    assert reserved(club, "new_codes") == sorted((f"c{n % 99}", n) for n in range(1, 100))


def test_a_deadlock_with_a_transaction_ends(club: Router) -> None:
    """The load waits on one shard for what the transaction has, and the transaction on another for what the load has:
    no server sees it. The transaction is the victim."""
    places = {club.shard_of(f"{n}@x").name: f"{n}@x" for n in range(50)}
    first, second = places["s0"], places["s1"]
    blocked = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND query LIKE '%COPY%emails%'"
    )

    def waiting() -> bool:
        with club.engines.borrow("s0") as connection, connection.cursor() as cursor:
            cursor.execute(blocked)
            return bool(cursor.rowcount)

    insert = "INSERT INTO members (member_id, line, email) VALUES (:key, 1, :email)"
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(CrossShardDeadlock), club.transaction() as tx:
            tx.query(insert, {"key": 1, "email": first})
            rows = [(2, 1, second), (3, 1, first)]
            loading = threads.submit(club.copy_into, "members", rows, columns=("member_id", "line", "email"))
            eventually(waiting, "the load waiting for the transaction")
            tx.query(insert, {"key": 4, "email": second})
        assert loading.result(30).rows == 2
    assert reserved(club, "emails") == sorted([(first, 3), (second, 2)])


def test_a_load_with_an_old_map(club: Router, tmp_path: Path) -> None:
    """The first partition, in which triggers are looked for, has moved: a file is loaded with a newer map."""
    path = tmp_path / "members.csv"
    path.write_text("member_id,line,email,nick\n1,1,a@x,\n")
    with Router(club.config, listen=False) as stale:
        first = club.shard_map.placements[0]
        move_partition(club, first.partition.id, next(it for it in club.shard_map.shards if it != first.shard))
        with pytest.raises(StalePlacement):
            stale.copy_into("members", [(2, 1, "b@x", None)], columns=("member_id", "line", "email", "nick"))
        move_partition(club, first.partition.id, first.shard)
        assert stale.copy_into("members", path).rows == 1
    assert reserved(club, "emails") == [("a@x", 1)]


def test_a_file_is_begun_again_for_as_long_as_moves_may_take(
    club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "members.csv"
    path.write_text("member_id,line,email,nick\n1,1,a@x,\n")
    moves = [StalePlacement("moved")] * 5

    def beneath_moves(*args: Any, **options: Any) -> LoadResult:
        if moves:
            raise moves.pop()
        return copy_into(*args, **options)

    monkeypatch.setattr("shardpool.router.copy_into", beneath_moves)
    monkeypatch.setattr("shardpool.router.MAX_RETRIES", 2)
    assert club.copy_into("members", path).rows == 1
    moves = [StalePlacement("moved")] * 5
    monkeypatch.setattr("shardpool.router.MOVES_WAIT", 0.0)
    with pytest.raises(StalePlacement):
        club.copy_into("members", path)
    assert len(moves) == 3
    assert reserved(club, "emails") == [("a@x", 1)]


@pytest.mark.parametrize(
    "point", [*(pytest.param(it, marks=pytest.mark.slow) for it in ("written", "decided")), "prepared"]
)
def test_a_job_that_is_killed_and_resumed(
    club: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.chdir(tmp_path)
    job = etl(tmp_path, "member_id,line,email,nick\n" + "".join(f"{n},1,m{n}@x,\n" for n in range(120)))
    job["run"] = {"chunk_rows": 30, "executor": "processes", "workers": 2}
    monkeypatch.setenv("SHARDPOOL_FAULT", f"chunk-2-{point}:kill9")
    with pytest.raises(JobFailed):
        run_job(club, job)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    resume_job(club, "club")
    assert reserved(club, "emails") == sorted((f"m{n}@x", n) for n in range(120))
