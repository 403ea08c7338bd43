"""Moving in: an old database, its writers, and a keyspace that ends up with the same rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardpool import Router, read_config
from shardpool.bulk import runner
from shardpool.errors import ConfigError, JobFailed, JobRefused, SchemaError
from shardpool.jobs import cancel_job, plan_job, resume_job, run_job, undo_job
from shardpool.jobs.migrate import capture, finish
from tests.cli.cli_tools import program, run
from tests.jobs.anonymise_tools import write_config as write_cluster
from tests.jobs.import_tools import OLD_SHOP, SPEC, TABLES, check_moved_in, leftovers, rows_in, writing
from tests.jobs.moving_tools import moving
from tests.support.backends import databases, plain_connection

SEED = int(os.environ.get("SHARDPOOL_SEED", "7"))


@dataclass(frozen=True)
class MoveIn:
    """The old database's URL, the job file, the configuration of the keyspace, and a router for it."""

    url: str
    spec: Path
    config: Path
    router: Router


@pytest.fixture
def place(server_urls: list[str], tmp_path: Path) -> Iterator[MoveIn]:
    with databases(server_urls[2:3]) as [old], databases(server_urls[:2]) as urls:
        connection = plain_connection(old)
        with connection.cursor() as cursor:
            cursor.execute(OLD_SHOP)
        connection.close()
        spec = tmp_path / "import.toml"
        spec.write_text(SPEC.format(url=old))
        config = write_cluster(tmp_path / "cluster.toml", urls, "shop", partitions=6)
        Router.initialise(read_config(config))
        with Router.from_file(config, listen=False) as router:
            yield MoveIn(old, spec, config, router)


def test_a_database_moves_in_under_its_writers(place: MoveIn) -> None:
    print("seed", SEED)
    with writing(place.url, SEED) as writer:
        result = run_job(place.router, place.spec)
    assert writer.failed is None
    assert "has moved to a shardpool keyspace" in writer.refused
    assert writer.done > 50
    assert result.state == "done"
    check_moved_in(place.router, place.url)
    assert leftovers(place.url) == ["shardpool_moved"] * 4
    print("writers waited", result.checks["pause"], "s; writes", writer.done)
    place.router.execute(5001, "INSERT INTO customers (id, country, name) VALUES (5001, 'de', 'x')")
    with pytest.raises(Exception, match="orders_customer_id_fkey"):
        place.router.execute(999777, "INSERT INTO orders VALUES (999777, 1, 1)")


@pytest.mark.parametrize("point", ["chunk-9-decided", "caught-up", "last-changes"])
def test_kill_9_and_resume(place: MoveIn, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", SEED)
    with writing(place.url, SEED) as writer:
        monkeypatch.setenv("SHARDPOOL_FAULT", f"{point}:kill9")
        assert program("job", "run", place.spec, "--config", place.config).code == -9
        monkeypatch.delenv("SHARDPOOL_FAULT")
        before = writer.done
        while writer.done < before + 10 and writer.is_alive():
            writer.join(0.01)
        assert not writer.refused  # it was not switched over, so the old database goes on
        assert resume_job(place.router, "move-in").state == "done"
    assert writer.failed is None
    check_moved_in(place.router, place.url)


def test_partitions_move_while_it_moves_in(place: MoveIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old database is written while the keyspace's partitions move; then it is undone, while they move on."""
    monkeypatch.setattr(runner, "REPORT_INTERVAL", 0.0)
    print("seed", SEED)
    with writing(place.url, SEED) as writer, moving(place.router, SEED) as started:
        with Router.from_file(place.config, listen=False) as stale:
            run_job(stale, place.spec, progress=started)
            check_moved_in(stale, place.url)
            undo_job(stale, "move-in")
        writer.join()
    assert "has moved to a shardpool keyspace" in writer.refused


def test_kill_9_after_the_switch(place: MoveIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old tables refuse writes already; what is left to do are the foreign keys."""
    with writing(place.url, SEED) as writer:
        monkeypatch.setenv("SHARDPOOL_FAULT", "switched:kill9")
        assert program("job", "run", place.spec, "--config", place.config).code == -9
        monkeypatch.delenv("SHARDPOOL_FAULT")
        writer.join(10)
        assert writer.refused
        cancel_job(place.router, "move-in")  # the old tables stay refused: the rows live in the keyspace now
        assert leftovers(place.url) == ["shardpool_moved"] * 4


def test_resume_after_the_switch(place: MoveIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDPOOL_FAULT", "switched:kill9")
    assert program("job", "run", place.spec, "--config", place.config).code == -9
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert resume_job(place.router, "move-in").state == "done"
    check_moved_in(place.router, place.url)


def test_frozen(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("[from]", "[from]\nfrozen = true"))
    result = run_job(place.router, place.spec)
    assert result.checks["verified_rows"]["items"] == 2400
    check_moved_in(place.router, place.url)
    assert leftovers(place.url) == []


def test_a_frozen_database_that_is_written_is_found_out(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("[from]", "[from]\nfrozen = true"))
    with writing(place.url, SEED), pytest.raises(JobFailed, match="the rows differ, do not switch over"):
        run_job(place.router, place.spec)


def test_a_missed_change_is_found_out(place: MoveIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture of updates is off: the counts of rows agree, their digests do not."""
    real = capture._note_function
    monkeypatch.setattr(
        capture, "_note_function", lambda *arguments: real(*arguments).replace("TG_OP <> 'INSERT'", "TG_OP = 'DELETE'")
    )
    with writing(place.url, SEED), pytest.raises(JobFailed, match="the rows differ, do not switch over"):
        run_job(place.router, place.spec)
    cancel_job(place.router, "move-in")
    assert leftovers(place.url) == []


def test_cutover_later(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("[run]", '[run]\ncutover = "later"'))
    with writing(place.url, SEED) as writer:
        assert run_job(place.router, place.spec).state == "paused"
        assert not writer.refused
        place.spec.write_text(place.spec.read_text().replace('"later"', '"now"'))
        assert resume_job(place.router, place.spec).state == "done"
        writer.join(10)
    assert writer.refused
    check_moved_in(place.router, place.url)


@pytest.mark.parametrize("change", ["ADD COLUMN more int DEFAULT 5", "ALTER weight TYPE real"])
def test_columns_that_change_meanwhile(place: MoveIn, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Neither side's digest would look at a column that came later."""
    following = iter(("the comparison", "the switch"))

    def catching_up(ends: finish.Ends) -> int:
        if next(following) == "the switch":
            connection = plain_connection(place.url)
            connection.cursor().execute(f"ALTER TABLE customers {change}")
            connection.close()
        return finish.catch_up(ends)

    monkeypatch.setattr("shardpool.jobs.migrate.job.catch_up", catching_up)
    with pytest.raises(JobFailed, match="columns or the primary key of customers were changed"):
        run_job(place.router, place.spec)
    assert "shardpool_moved" not in leftovers(place.url)


def test_keys_are_noted_alike_by_writers_of_any_settings(place: MoveIn) -> None:
    """A key in another text would be another key: its row would stay as it was copied."""
    connection = plain_connection(place.url)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE odd (id bigint, i interval, f double precision, n int, PRIMARY KEY (id, i, f)); "
            "INSERT INTO odd SELECT n, n * '-1 day 3:04:05.6'::interval, n / 3.0, 0 FROM generate_series(1, 9) n"
        )
        spec = place.spec.read_text().replace("[run]", '[run]\ncutover = "later"')
        place.spec.write_text(f'{spec}odd = {{ key = "id" }}\n')
        run_job(place.router, place.spec)
        cursor.execute(
            "SET intervalstyle = 'sql_standard'; SET extra_float_digits = -5; SET bytea_output = 'escape'; "
            "SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Kolkata'; UPDATE odd SET n = 1"
        )
    connection.close()
    place.spec.write_text(place.spec.read_text().replace('"later"', '"now"'))
    resume_job(place.router, place.spec)
    place.router.refresh()
    assert place.router.query("SELECT DISTINCT n FROM odd").scalars().all() == [1]


def test_the_way_back(place: MoveIn) -> None:
    run_job(place.router, place.spec)
    key = {"k": 5001}
    place.router.execute(5001, "INSERT INTO customers (id, country, name) VALUES (:k, 'de', 'written since')", key)
    with pytest.raises(JobRefused, match="the rows differ"):
        undo_job(place.router, "move-in")
    assert leftovers(place.url) == ["shardpool_moved"] * 4
    place.router.execute(5001, "DELETE FROM customers WHERE id = :k", key)
    assert run("job", "undo", "move-in", config=place.config).code == 0
    assert leftovers(place.url) == []
    with writing(place.url, SEED) as writer:
        assert writer.done >= 20
    assert writer.failed is None
    with pytest.raises(JobRefused, match="switched back already"):
        undo_job(place.router, "move-in")


def write_since(router: Router) -> None:
    """Change the keyspace in every way, also what others refer to."""
    router.execute(5001, "INSERT INTO customers (id, country, name) VALUES (5001, 'de', 'new')")
    router.execute(5001, "INSERT INTO orders VALUES (5001, 1, 7)")
    router.query("UPDATE customers SET name = name || '!' WHERE id < 50")
    router.query("UPDATE orders SET number = number + 50 WHERE customer_id = 7")
    router.query("DELETE FROM items WHERE customer_id = 9")
    router.query("DELETE FROM customers WHERE id = 11")


def check_moved_back(place: MoveIn) -> None:
    place.router.refresh()
    for table in TABLES:
        found = sorted(row[0] for row in place.router.query(f"SELECT t::text FROM {table} t"))
        assert (table, found) == (table, rows_in(place.url, table))
    assert leftovers(place.url) == []
    with pytest.raises(Exception, match="has moved back"):
        place.router.query("UPDATE orders SET total = 0")
    with writing(place.url, SEED) as writer:
        assert writer.done >= 20
    assert writer.failed is None


def test_the_way_back_takes_along_what_was_written(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("[run]", "[run]\nway_back = true"))
    old = plain_connection(place.url)
    with old.cursor() as cursor:
        cursor.execute("ALTER TABLE items ADD COLUMN entry bigint GENERATED ALWAYS AS IDENTITY")
        run_job(place.router, place.spec)
        write_since(place.router)
        place.router.execute(5001, "INSERT INTO items VALUES (5001, 1, 1, 'new', 7000000)")
        assert run("job", "undo", "move-in", config=place.config).code == 0
        check_moved_back(place)
        cursor.execute("INSERT INTO items VALUES (5001, 1, 2, 'newer') RETURNING entry")
        assert cursor.fetchone()[0] > 7000000
    old.close()
    assert sorted(place.router.topology.tables) == sorted(TABLES)


@pytest.mark.parametrize("point", ["fenced-back", pytest.param("way-back-closed", marks=pytest.mark.slow)])
def test_kill_9_on_the_way_back(place: MoveIn, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place.spec.write_text(place.spec.read_text().replace("[run]", "[run]\nway_back = true"))
    run_job(place.router, place.spec)
    write_since(place.router)
    monkeypatch.setenv("SHARDPOOL_FAULT", f"{point}:kill9")
    assert program("job", "undo", "move-in", "--config", place.config).code == -9
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert leftovers(place.url) == ["shardpool_moved"] * 4
    place.router.refresh()
    undo_job(place.router, "move-in")
    check_moved_back(place)


def test_a_write_that_was_not_noted_keeps_the_keyspace(place: MoveIn) -> None:
    """Reference tables have no notes: rows that differ are found out, and both sides are as they were."""
    place.spec.write_text(place.spec.read_text().replace("[run]", "[run]\nway_back = true"))
    run_job(place.router, place.spec)
    place.router.query("INSERT INTO country VALUES ('it', 'Italy')")
    with pytest.raises(JobRefused, match="the rows differ"):
        undo_job(place.router, "move-in")
    assert leftovers(place.url) == ["shardpool_moved"] * 4
    write_since(place.router)
    place.router.query("DELETE FROM country WHERE code = 'it'")
    assert run("job", "close", "move-in", config=place.config).code == 0
    with pytest.raises(JobRefused, match="the rows differ"):
        undo_job(place.router, "move-in")


def test_truncate_is_refused_meanwhile(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("[run]", '[run]\ncutover = "later"'))
    run_job(place.router, place.spec)
    connection = plain_connection(place.url)
    with connection.cursor() as cursor, pytest.raises(Exception, match="cannot be truncated"):
        cursor.execute("TRUNCATE items")
    connection.close()
    cancel_job(place.router, "move-in")
    assert leftovers(place.url) == []
    assert len(rows_in(place.url, "items")) == 2400


# -- before anything runs -------------------------------------------------------------------------------------------


def test_the_proposal(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().split("[tables]")[0])
    plan = plan_job(place.router, place.spec)
    found = {it["table"]: (it["kind"], it["key"], it["obstacles"]) for it in plan["proposal"]["tables"]}
    assert found == {
        "country": ("reference", "", ()),
        "customers": ("sharded", "id", ()),
        "orders": ("sharded", "customer_id", ()),
        "items": ("sharded", "customer_id", ()),
    }
    assert [it["what"] for it in plan["proposal"]["not_taken_along"]] == ["view rich"]
    skew = {it["table"]: it for it in plan["skew"]}["orders"]
    assert (skew["rows"], skew["keys"]) == (1800, 600)
    assert 1.0 <= skew["largest"] / skew["mean"] < 1.5
    assert leftovers(place.url) == []
    with pytest.raises(JobRefused, match="says nothing about country"):
        run_job(place.router, place.spec)


def test_the_proposal_keeps_to_the_spec(place: MoveIn) -> None:
    said = '[tables]\ncustomers = { reference = true }\norders = { key = "number" }\nitems = { skip = true }\n'
    place.spec.write_text(place.spec.read_text().split("[tables]")[0] + said)
    plan = plan_job(place.router, place.spec)
    found = {it["table"]: (it["kind"], it["key"], it["obstacles"]) for it in plan["proposal"]["tables"]}
    assert found == {
        "country": ("reference", "", ()),
        "customers": ("reference", "", ()),
        "orders": ("sharded", "number", ()),
        "items": ("skipped", "", ()),
    }


def test_a_dry_run_tells_what_the_run_would_refuse(place: MoveIn) -> None:
    connection = plain_connection(place.url)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE customers ADD COLUMN email text UNIQUE, ADD COLUMN number serial")
        cursor.execute("ALTER TABLE orders ADD COLUMN ticket bigserial")
    connection.close()
    plan = plan_job(place.router, place.spec)
    way = "customers: unique (email) does not contain id (drop that, and after the import: shardpool unique add "
    assert plan["problems"] == [f"{way}customers email)"]
    assert plan["notes"] == [
        "customers.number counts by itself: ids must come from the application; those of router.next_id() are bigint, "
        "this is integer: change its type before the import",
        "orders.ticket counts by itself: ids must come from the application",
    ]
    shown = run("job", "run", place.spec, "--dry-run", config=place.config)
    assert "before the job runs: customers: unique (email) does not contain id" in shown.out
    with pytest.raises(JobRefused, match=re.escape(plan["problems"][0])):
        run_job(place.router, place.spec)


MORE = """
CREATE SEQUENCE tickets;
SELECT nextval('tickets'), nextval('tickets');
CREATE SEQUENCE unused;
CREATE MATERIALIZED VIEW totals AS SELECT sum(total) FROM orders;
CREATE FUNCTION rounded() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.total := round(NEW.total); RETURN NEW; END';
CREATE TRIGGER rounds BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION rounded();
CREATE PROCEDURE clean() LANGUAGE sql AS 'DELETE FROM items';
CREATE POLICY few ON orders USING (total < 9);
CREATE RULE twice AS ON DELETE TO orders DO ALSO SELECT 1;
CREATE TABLE nothing ();
CREATE TABLE shardpool_own (id int);
"""


def test_what_is_not_taken_along_can_be_created_afterwards(place: MoveIn) -> None:
    connection = plain_connection(place.url)
    with connection.cursor() as cursor:
        cursor.execute(MORE)
    connection.close()
    left_out = {it["what"]: it for it in plan_job(place.router, place.spec)["proposal"]["not_taken_along"]}
    assert list(left_out) == [
        *("empty table nothing", "function rounded", "materialized view totals", "policy few on orders"),
        *("procedure clean", "reserved table shardpool_own", "rule twice on orders"),
        *("sequence tickets, which stands at 2", "sequence unused, which was never used"),
        *("trigger rounds on orders", "view rich"),
    ]
    assert all(it["advice"] for it in left_out.values())
    shown = run("job", "run", place.spec, "--dry-run", config=place.config).out
    assert "which stands at 2; new ids come from the application" in " ".join(shown.split())
    place.spec.write_text(place.spec.read_text().replace("[from]", "[from]\nfrozen = true"))
    run_job(place.router, place.spec)
    for what in ("function rounded", "trigger rounds on orders", "view rich"):
        place.router.create_schema(left_out[what]["statement"], {})
    place.router.query("INSERT INTO orders VALUES (7, 99, 5000.4)")
    assert place.router.query("SELECT number, total FROM rich").all() == [(99, 5000)]


LOG = r"""
SELECT * FROM customers WHERE id = 17
900	SELECT o.*, i.product FROM orders o JOIN items i USING (customer_id, number) WHERE o.customer_id = $1
5	SELECT name\n  FROM country
10	SELECT sum(total) FROM orders
2	SELECT count(*) FROM orders a JOIN orders b ON a.total = b.number
20	UPDATE orders SET total = $2 WHERE customer_id = $1 AND number = $3
30	INSERT INTO items VALUES ($1, $2, 1, 'x')
4	DELETE FROM items WHERE product = 'x'
1	SELECT * FROM rich
1	no statement
"""


def test_a_query_log_is_judged(place: MoveIn) -> None:
    place.spec.with_name("log.txt").write_text(LOG)
    place.spec.write_text(place.spec.read_text().replace("[from]", '[from]\nquery_log = "log.txt"'))
    found = plan_job(place.router, place.spec)["query_log"]
    assert found["calls"] == {
        "one partition": 951,
        "any shard": 5,
        "several partitions": 14,
        "rows are moved": 2,
        "refused": 2,
    }
    assert any("rich" in statement for statement in found["examples"]["refused"])
    # Split by another column, hardly anything would stay.
    place.spec.write_text(place.spec.read_text().split("[tables]")[0] + '[tables]\norders = { key = "number" }\n')
    worse = plan_job(place.router, place.spec)["query_log"]["calls"]
    assert worse["one partition"] < 100
    shown = run("job", "run", place.spec, "--dry-run", config=place.config).out
    assert "calls in the query log" in shown


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ("ALTER TABLE items DROP CONSTRAINT items_pkey", "", "items: it has no primary key"),
        ("ALTER TABLE customers ADD UNIQUE (name)", "", r"customers: unique \(name\) does not contain id"),
        ("ALTER TABLE orders ADD EXCLUDE (number WITH =, total WITH =)", "", r"\[SP235\].*does not contain"),
        ("CREATE UNIQUE INDEX odd ON customers ((id + 1))", "", r"unique \(\) does not contain id"),
        ("CREATE TABLE more () INHERITS (orders)", "more = { skip = true }", "orders: it is written by way of other"),
        ("SELECT 1", "orders = { reference = true }", "cannot refer to customers, which is sharded"),
        ("SELECT 1", 'orders = { key = "total" }', "cannot be a partition key"),
        ("SELECT 1", "customers = { skip = true }", "refers to customers, which is skipped"),
        ("SELECT 1", "other = { reference = true }", "the database does not have"),
    ],
)
def test_what_stands_in_the_way(place: MoveIn, change: str, spec: str, message: str) -> None:
    connection = plain_connection(place.url)
    with connection.cursor() as cursor:
        cursor.execute(change)
    connection.close()
    lines = place.spec.read_text().splitlines()
    name = spec.partition(" ")[0]
    lines = [*(line for line in lines if not name or not line.startswith(f"{name} =")), spec]
    place.spec.write_text("\n".join(lines))
    with pytest.raises((JobRefused, SchemaError), match=message):
        run_job(place.router, place.spec)
    assert leftovers(place.url) == []


def test_a_password_is_not_kept(place: MoveIn) -> None:
    place.spec.write_text(place.spec.read_text().replace("://", "://me:hunter2secret@", 1).replace("@shardpool@", "@"))
    with pytest.raises(ConfigError, match=r"from\.url") as caught:
        run_job(place.router, place.spec)
    assert "hunter2" not in str(caught.value)


def test_the_command_line(place: MoveIn) -> None:
    planned = run("job", "run", place.spec, "--dry-run", config=place.config)
    assert planned.code == 0, planned.err
    assert "customer_id" in planned.out
    assert "not taken along: view rich" in planned.out
    assert "largest/mean" in planned.out
    done = run("job", "run", place.spec, "--json", config=place.config)
    assert done.json["checks"]["verified_rows"]["customers"] == 600
    assert set(done.json["checks"]["verified_rows"]) == set(TABLES)
