"""Schema changes of several tables, beside transactions that write these in another order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router, Sharded
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually

NOTE = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; " + "; ".join(
    f"CREATE TRIGGER note AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION note()" for table in ("a", "b")
)


CREATE = "; ".join(f"CREATE TABLE {table} (key bigint PRIMARY KEY, n int)" for table in ("a", "b"))
DROP = "DROP TRIGGER note ON a; DROP TRIGGER note ON b; DROP FUNCTION note()"
WAITS = "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE NOT l.granted AND c.relname IN ('a', 'b')"


@pytest.fixture(scope="module")
def router(server_urls: list[str]) -> Iterator[Router]:
    with databases(server_urls[:1]) as urls:
        config = shop_config(urls, partitions=1)
        Router.initialise(config)
        with Router(config, listen=False) as found:
            found.create_schema(CREATE, {name: Sharded("key") for name in ("a", "b")})
            found.query("INSERT INTO a VALUES (1, 0)")
            found.query("INSERT INTO b VALUES (1, 0)")
            yield found


@pytest.mark.parametrize("change", [NOTE, DROP], ids=["create triggers", "drop them"])
def test_writers_in_another_order_get_no_deadlock(router: Router, change: str) -> None:
    """One has written b, and comes to a when the change would have it: it is the change that gives way."""
    writer, watcher = (plain_connection(router.config.shards["s0"].url).cursor() for _ in range(2))

    def somebody_waits() -> bool:
        watcher.execute(WAITS)
        return watcher.fetchone() is not None

    writer.execute("SET search_path TO shop_p0000")
    writer.execute("BEGIN; UPDATE b SET n = n + 1")
    changing = Background(lambda: router.create_schema(change, {}))
    eventually(somebody_waits, "the change waits for the writer")
    writer.execute("UPDATE a SET n = n + 1; COMMIT")
    changing.wait()
    for cursor in (writer, watcher):
        cursor.connection.close()
