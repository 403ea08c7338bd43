"""Views go with their partitions: moved, split and merged ones, and those of a new shard."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from shardpool.errors import PreflightFailed
from shardpool.moves import move_partition
from tests.moves.change_tools import merge, partition_ids, split
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place, schema
from tests.support.backends import databases

VIEWS = """
create view dear as select customer_id, id, total from orders where total < 9000;
create view dearest as select customer_id, max(total) as most from dear group by customer_id;
create view places as select code, upper(name) as name from country;
"""
STATEMENTS = (
    "select count(*), sum(total) from dear",
    "select * from dearest order by customer_id",
    "select * from dearest where customer_id = 7",
    "select * from places order by code",
    "select count(*) from dear, places",
)


@pytest.fixture(scope="module")
def viewed(server_urls: list[str]) -> Iterator[Place]:
    with databases(server_urls[:2]) as urls:
        place = Place(shop_config(urls))
        try:
            place.fill()
            place.router.create_schema(VIEWS)
            yield place
        finally:
            place.close()


def answers(place: Place) -> list[list[tuple[object, ...]]]:
    return [[tuple(row) for row in place.router.query(statement)] for statement in STATEMENTS]


def views_of(place: Place, partition: int) -> list[tuple[object, ...]]:
    query = f"select viewname from pg_views where schemaname = '{schema(partition)}' order by 1"
    return place.sql(place.owner(partition), query)


def test_a_moved_partition_has_its_views(viewed: Place) -> None:
    before = answers(viewed)
    viewed.sql(viewed.owner(0), f"grant select on {schema(0)}.dear to public")
    source = viewed.owner(0)
    for _ in range(2):
        move_partition(viewed.router, 0, viewed.other(0))
        assert views_of(viewed, 0) == [("dear",), ("dearest",)]
        assert answers(viewed) == before
    move_partition(viewed.router, 0, viewed.other(0))
    query = f"select has_table_privilege('pg_monitor', '{schema(0)}.dear', 'select')"
    assert viewed.sql(viewed.owner(0), query) == [(True,)]
    viewed.assert_clean()
    # Whoever still thinks that it is here finds nothing.
    with pytest.raises(psycopg2.errors.UndefinedTable), viewed.session(source, 0) as cursor:
        cursor.execute("select * from dear")


def test_a_prepared_statement_over_a_view_finds_nothing_afterwards(viewed: Place) -> None:
    with viewed.session(viewed.owner(1), 1) as cursor:
        cursor.execute("prepare by_view as select count(*) from dearest")
        for _ in range(7):
            cursor.execute("execute by_view")
        assert cursor.fetchone() != (0,)
        move_partition(viewed.router, 1, viewed.other(1))
        with pytest.raises(psycopg2.errors.UndefinedTable):
            cursor.execute("execute by_view")


def test_split_and_merged_partitions_have_them_too(viewed: Place) -> None:
    before, first = answers(viewed), partition_ids(viewed)[0]
    parts = split(viewed, first).partitions
    assert all(views_of(viewed, part) == [("dear",), ("dearest",)] for part in parts)
    assert answers(viewed) == before
    (merged,) = merge(viewed, *parts).partitions
    assert views_of(viewed, merged) == [("dear",), ("dearest",)]
    assert answers(viewed) == before
    viewed.assert_clean()


def test_a_view_that_no_script_created_is_not_left_behind(viewed: Place) -> None:
    partition = partition_ids(viewed)[-1]
    viewed.sql(
        viewed.owner(partition), f"create view {schema(partition)}.mine as select * from {schema(partition)}.orders"
    )
    with pytest.raises(PreflightFailed, match=r"view .*mine"):
        move_partition(viewed.router, partition, viewed.other(partition))
    viewed.sql(viewed.owner(partition), f"drop view {schema(partition)}.mine")
