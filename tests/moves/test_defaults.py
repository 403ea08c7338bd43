"""Moves between servers, databases and roles that have other defaults than PostgreSQL's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url

from shardpool import Sharded
from shardpool.moves import move_partition
from shardpool.moves.record import Mode
from shardpool.topology.names import quote
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Place, schema
from tests.moves.test_online import written_at
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually


@pytest.fixture(scope="module", params=["repeatable read", "serializable"])
def strict(request: pytest.FixtureRequest, server_urls: list[str]) -> Iterator[Place]:
    """Databases whose transactions see one snapshot unless they ask for something else."""
    with databases(server_urls[:2]) as urls:
        for url in urls:
            connection = plain_connection(url)
            name = quote(str(make_url(url).database))
            connection.cursor().execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
            connection.close()
        own = Place(shop_config(urls, partitions=1))
        try:
            own.router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY, n int)", {"lines": Sharded("key")})
            own.router.copy_into("lines", [(key, 0) for key in range(10)])
            yield own
        finally:
            own.close()


@pytest.mark.parametrize("mode", ["block", "trigger", "logical"])
def test_what_is_committed_while_the_move_waits_arrives(
    strict: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """A snapshot that was taken before the lock was granted does not have it."""
    source, target = strict.owner(0), strict.other(0)
    waits = "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'lines' AND NOT l.granted"
    monkeypatch.setattr("shardpool.moves.lock.OLD", 60.0)
    writers: list[Background] = []

    def write() -> None:
        if writers:
            return
        cursor = plain_connection(strict.config.shards[source].url).cursor()
        cursor.execute(f"BEGIN; UPDATE {schema(0)}.lines SET n = n + 1")

        def commit() -> None:
            eventually(lambda: strict.sql(source, waits) != [], "the move waits")
            cursor.execute("COMMIT")
            cursor.connection.close()

        writers.append(Background(commit))

    ((before,),) = strict.sql(source, f"SELECT sum(n) FROM {schema(0)}.lines")
    written_at(monkeypatch, {"move:lock:before": write})
    move_partition(strict.router, 0, target, mode=mode)
    writers[0].wait()
    assert strict.owner(0) == target
    assert strict.sql(target, f"SELECT sum(n) FROM {schema(0)}.lines") == [(before + 10,)]
    strict.assert_clean()
