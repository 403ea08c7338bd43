"""MERGE by other columns than the key does what one plain PostgreSQL does, whoever writes meanwhile."""

from __future__ import annotations

import pytest
from postgast import pg_query_pb2 as pb

from shardpool.errors import SchemaDrift, UnsupportedStatement
from shardpool.planner.writes import pairs
from tests.oracle.test_writes import check
from tests.oracle.test_writes_elsewhere import meanwhile, rows
from tests.oracle.writes import BY_SOURCE, Both, on_cluster, on_plain

FILL = (
    "INSERT INTO country VALUES ('de', 'D', 3), ('fr', 'F', 4)",
    "INSERT INTO orders (customer, id, total, note) SELECT n, n % 3, n, 'n' || n % 4 FROM generate_series(0, 11) n",
    "INSERT INTO sums SELECT n, n, n FROM generate_series(0, 7) n",
)


BY_TOTAL = "MERGE INTO sums s USING orders o ON s.total = o.total"
SAME = [
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET total = s.total + o.customer WHEN NOT MATCHED THEN "
    "INSERT (customer, total) VALUES (o.customer + 40, o.total) RETURNING s.customer, o.id, merge_action()",
    f"{BY_TOTAL} AND o.id = 1 WHEN MATCHED THEN DELETE WHEN NOT MATCHED BY SOURCE AND total > 3 THEN "
    "UPDATE SET total = total + 100 RETURNING s.*, o.note",
    "MERGE INTO sums USING (VALUES (1, 70), (2, 71), (90, 72)) AS v(orders, new) ON sums.orders = v.orders "
    "WHEN MATCHED AND customer = 2 THEN DO NOTHING WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND new = 72 THEN "
    "INSERT VALUES (new, 1, 1)",
    # rows without a key are inserted under one of several
    f"{BY_TOTAL} WHEN NOT MATCHED AND note = 'n0' THEN INSERT (customer) VALUES (60 + id) WHEN NOT MATCHED AND id = 1 "
    "THEN DO NOTHING WHEN NOT MATCHED THEN INSERT (customer) VALUES (o.customer)",
    # a row of the source that has NULLs only, and matches
    "MERGE INTO sums s USING (SELECT NULL::int AS a) o ON s.orders = 3 WHEN MATCHED THEN DELETE "
    "WHEN NOT MATCHED BY SOURCE AND orders < 3 THEN UPDATE SET total = NULL",
    "MERGE INTO sums s USING (SELECT count(*) AS n FROM orders) o ON s.orders + 9 > n WHEN MATCHED THEN UPDATE "
    "SET total = n WHEN NOT MATCHED BY SOURCE THEN DELETE",
    # the same row twice, and a row of the source that matches many
    "MERGE INTO sums s USING orders o ON s.orders = o.id WHEN MATCHED THEN UPDATE SET total = 1",
    "MERGE INTO sums s USING country c ON s.orders % 2 + 3 = c.size WHEN MATCHED THEN UPDATE SET total = c.size * 2",
    "WITH w AS (SELECT max(customer) AS top FROM orders) MERGE INTO sums s USING w ON s.customer = w.top - 5 "
    "WHEN MATCHED THEN UPDATE SET orders = top WHEN NOT MATCHED THEN INSERT (customer) VALUES (top)",
    "MERGE INTO sums s USING sums o ON s.orders = o.orders + 1 WHEN MATCHED THEN UPDATE SET total = o.total "
    "WHEN NOT MATCHED THEN INSERT (customer, total) VALUES (o.customer + :x, o.total) "
    "WHEN NOT MATCHED BY SOURCE THEN DELETE",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET (orders, total) = (o.id + s.customer, DEFAULT) RETURNING s.orders",
    "MERGE INTO sums s USING orders o ON s.customer = o.customer WHEN MATCHED THEN UPDATE SET (total, orders) = "
    "ROW(o.id, s.total) WHEN NOT MATCHED BY SOURCE THEN UPDATE SET (total, orders) = (1, customer)",
    "MERGE INTO sums s USING orders o ON s.total = o.total AND o.id = 0 WHEN NOT MATCHED BY SOURCE THEN "
    "UPDATE SET (total, orders) = (1, customer + total)",
    "MERGE INTO sums s USING orders o ON s.total = o.total AND false WHEN MATCHED THEN DELETE RETURNING s.customer",
    f"{BY_TOTAL} WHEN MATCHED AND 1 / (o.customer - 3) = 1 THEN DELETE",
    "MERGE INTO orders o USING sums s ON o.note = 'n' || s.orders WHEN MATCHED THEN UPDATE SET note = s.total || '%s' "
    "RETURNING o.customer, o.note",
]


@pytest.mark.parametrize("sql", SAME)
def test_answers_and_tables_are_the_same(both: Both, sql: str) -> None:
    if "BY SOURCE" in sql and both.plain.server_version < BY_SOURCE:
        pytest.skip("the plain server does not know NOT MATCHED BY SOURCE")
    parameters = {"x": 60} if ":x" in sql else {}
    found = on_cluster(both.router.query, sql, parameters)
    assert not found.refused
    assert found.agrees(on_plain(both.plain, sql, parameters)), found
    check(both, sql)


#: Into a reference table: the source is found once, from wherever, and merged into each copy.
INTO_COPIES = [
    "MERGE INTO country c USING (VALUES ('de', 'X', 1), ('it', 'I', 2)) AS v(code, name, n) ON c.code = v.code "
    "WHEN MATCHED THEN UPDATE SET name = v.name || c.name, size = DEFAULT WHEN NOT MATCHED THEN INSERT (code, name) "
    "VALUES (v.code, v.name) RETURNING merge_action(), c.*, v.n",
    "MERGE INTO country USING (SELECT note, sum(total) AS total FROM orders GROUP BY note) o ON size * 6 = total "
    "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (note, note, total) "
    "WHEN NOT MATCHED BY SOURCE THEN UPDATE SET size = size + 1",
    "MERGE INTO country c USING country d ON c.size = d.size + 1 WHEN MATCHED AND c.code = :x THEN DELETE "
    "WHEN MATCHED THEN UPDATE SET (name, size) = (d.name, 9) RETURNING c.code, d.code",
    "WITH w AS (SELECT 'es' AS code) MERGE INTO country c USING w ON c.code = w.code WHEN NOT MATCHED THEN INSERT "
    "VALUES (w.code, 'E', 5)",
    "MERGE INTO country c USING orders o ON o.customer < 2 AND c.code = 'de' WHEN MATCHED THEN UPDATE SET size = id",
    "MERGE INTO country c USING orders o ON false WHEN NOT MATCHED THEN INSERT VALUES ('o' || id % 2, 'x')",
    "MERGE INTO country c USING sums s ON false WHEN MATCHED THEN DELETE RETURNING *",
    "MERGE INTO country c USING sums s ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES",
]


@pytest.mark.parametrize("sql", INTO_COPIES)
def test_copies_of_a_reference_table_are_merged_into_alike(both: Both, sql: str) -> None:
    if both.plain.server_version < BY_SOURCE:
        with pytest.raises(UnsupportedStatement, match=r"SP136.*PostgreSQL 17"):
            both.router.query(sql, {"x": "de"} if ":x" in sql else {})
        return
    parameters = {"x": "de"} if ":x" in sql else {}
    found = on_cluster(both.router.query, sql, parameters)
    assert not found.refused
    assert found.agrees(on_plain(both.plain, sql, parameters)), found
    check(both, sql)


def test_copies_that_would_differ_are_not_merged_into(both: Both) -> None:
    if both.plain.server_version < BY_SOURCE:
        pytest.skip("MERGE has no RETURNING")
    words = "MERGE INTO country c USING (VALUES (1)) v(a) ON a = 1 WHEN MATCHED THEN UPDATE SET name = random()::text"
    with pytest.raises(SchemaDrift):
        both.router.query(words)
    check(both, words)


REFUSED = {
    "MERGE INTO country USING (SELECT 1) ON true WHEN MATCHED THEN DELETE": "SP136.*no name",
    "MERGE INTO sums USING (SELECT id AS c FROM orders) ON sums.customer = c + 1 WHEN MATCHED THEN DELETE": "no name",
    "MERGE INTO sums s USING orders o ON s.total = o.total WHEN NOT MATCHED THEN INSERT DEFAULT VALUES": "SP113",
    "MERGE INTO sums s USING orders o ON s.customer = o.id WHEN NOT MATCHED THEN INSERT DEFAULT VALUES": "SP113",
    "MERGE INTO country c USING orders o ON true WHEN MATCHED THEN UPDATE SET size = (SELECT 1)": "SP136",
    "MERGE INTO country c USING orders o ON clock_timestamp() > now() WHEN MATCHED THEN DELETE": "SP136",
    f"{BY_TOTAL} WHEN NOT MATCHED THEN INSERT (customer, total) VALUES (NULL, 1)": "SP132.*computed as text",
    f"{BY_TOTAL} WHEN MATCHED THEN DELETE RETURNING *": "SP132.*named as a whole",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET orders = length(o::text)": "SP132.*named as a whole",
    f"{BY_TOTAL} WHEN NOT MATCHED THEN INSERT (customer) VALUES (random(1, 9))": r"random\(\) is evaluated",
    f"{BY_TOTAL} WHEN NOT MATCHED AND random() > 0.5 THEN INSERT (customer) VALUES (id)": r"random\(\) is evaluated",
    f"{BY_TOTAL} WHEN NOT MATCHED THEN INSERT (customer) VALUES (o.total)": "SP132.*computed as numeric",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET customer = o.customer + 1": "SP114",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET orders = (SELECT 1)": "SP13[23]",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET (orders, total) = (SELECT 1, 2)": "SP132.*one subquery",
    f"{BY_TOTAL} WHEN MATCHED THEN UPDATE SET (total, customer) = (1, o.customer)": "SP114",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_not_proven_is_refused(both: Both, sql: str) -> None:
    with pytest.raises(UnsupportedStatement, match=REFUSED[sql]):
        both.router.query(sql)
    check(both, sql)


def test_a_row_that_changes_meanwhile_is_found_again(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    left = meanwhile(monkeypatch, both.router, "UPDATE sums SET total = 5 WHERE customer = 1", 2)
    both.router.query(f"{BY_TOTAL} WHEN MATCHED AND o.customer = 5 THEN UPDATE SET orders = 100")
    assert left == [0]
    assert rows(both.router, "SELECT customer FROM sums WHERE orders = 100") == [(1,), (5,)]


def test_without_the_lock_that_row_would_be_merged_as_it_was(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.PairedMerge, "_lock", _lock_nothing)
    meanwhile(monkeypatch, both.router, "UPDATE sums SET total = 5 WHERE customer = 1", 1)
    both.router.query(f"{BY_TOTAL} WHEN MATCHED AND o.customer = 5 THEN UPDATE SET orders = 100")
    assert rows(both.router, "SELECT customer FROM sums WHERE orders = 100") == [(5,)]


def _lock_nothing(merge: pairs.PairedMerge) -> str:
    return f"SELECT 1 FROM {pairs.rows_item(len(merge.table.columns))}"


def test_a_row_that_comes_meanwhile_is_left_alone(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one PostgreSQL, whose statement does not see it either."""
    both.router.query("DELETE FROM sums WHERE customer = 1")
    meanwhile(monkeypatch, both.router, "INSERT INTO sums VALUES (1, 1, 777)", 1)
    both.router.query(f"{BY_TOTAL} WHEN NOT MATCHED BY SOURCE THEN DELETE")
    assert rows(both.router, "SELECT total FROM sums WHERE total > 100") == [(777,)]


#: fault -> where it is planted, and a write that it makes wrong
PLANTED: dict[str, tuple[str, object, str]] = {
    "rows without a match are forgotten": (
        "join_type",
        lambda merge: pb.JOIN_INNER,
        f"{BY_TOTAL} WHEN NOT MATCHED THEN INSERT (customer) VALUES (o.customer)",
    ),
    "a row is inserted under the key of the match": (
        "_keys",
        lambda merge, table, alias, other, topology: [pairs.expression("o.id + 1")],
        f"{BY_TOTAL} WHEN NOT MATCHED THEN INSERT (customer) VALUES (o.customer)",
    ),
    "rows of the target without a match are forgotten": (
        "_MIRRORED",
        {},
        f"{BY_TOTAL} AND o.customer > 3 WHEN NOT MATCHED BY SOURCE THEN UPDATE SET total = 80",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_seen(both: Both, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name, instead, sql = PLANTED[fault]
    with pytest.raises(AssertionError), monkeypatch.context() as patch:
        patch.setattr(pairs, name, instead)
        found = on_cluster(both.router.query, sql, {})
        assert not found.refused, found
        assert found.agrees(on_plain(both.plain, sql, {})), found
        check(both, sql)
    both.router._forget_plans()
