"""Tables that somebody changes by hand while they move: their rows would arrive, and what they are would not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Sharded
from shardpool.errors import MoveError, SchemaDrift
from shardpool.moves import move_partition
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place, schema
from tests.moves.test_online import written_at
from tests.support.backends import databases

DDL = """
CREATE TABLE lines (key bigint, id int, n int, t text, PRIMARY KEY (key, id));
CREATE TABLE parts (
    key bigint, id int, line int, PRIMARY KEY (key, id), CONSTRAINT line FOREIGN KEY (key, line) REFERENCES lines
);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER keep BEFORE UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION keep();
CREATE VIEW known AS SELECT key FROM lines;
"""
#: What is done, and what undoes it.
CHANGES = [
    ("ALTER TABLE {}.lines ADD COLUMN more int DEFAULT 5", "ALTER TABLE {}.lines DROP COLUMN more"),
    ("ALTER TABLE {}.lines ALTER COLUMN n TYPE bigint", "ALTER TABLE {}.lines ALTER COLUMN n TYPE int"),
    ("ALTER TABLE {}.lines RENAME COLUMN n TO m", "ALTER TABLE {}.lines RENAME COLUMN m TO n"),
    ("ALTER TABLE {}.lines ALTER COLUMN n SET NOT NULL", "ALTER TABLE {}.lines ALTER COLUMN n DROP NOT NULL"),
    ("CREATE UNIQUE INDEX other ON {}.lines (key, n)", "DROP INDEX {}.other"),
    ("ALTER TABLE {}.lines ADD CONSTRAINT small CHECK (n < 1000)", "ALTER TABLE {}.lines DROP CONSTRAINT small"),
    (
        "ALTER TABLE {}.parts DROP CONSTRAINT line",
        "ALTER TABLE {0}.parts ADD CONSTRAINT line FOREIGN KEY (key, line) REFERENCES {0}.lines",
    ),
    ("ALTER TABLE {}.lines DISABLE TRIGGER keep", "ALTER TABLE {}.lines ENABLE TRIGGER keep"),
    ("CREATE RULE kept AS ON DELETE TO {}.lines DO INSTEAD NOTHING", "DROP RULE kept ON {}.lines"),
    ("ALTER TABLE {}.lines ENABLE ROW LEVEL SECURITY", "ALTER TABLE {}.lines DISABLE ROW LEVEL SECURITY"),
    ("CREATE POLICY few ON {}.lines USING (n < 3)", "DROP POLICY few ON {}.lines"),
    ("COMMENT ON TABLE {}.lines IS 'many'", "COMMENT ON TABLE {}.lines IS NULL"),
    ("COMMENT ON COLUMN {}.parts.line IS 'of lines'", "COMMENT ON COLUMN {}.parts.line IS NULL"),
    ("COMMENT ON CONSTRAINT line ON {}.parts IS 'of lines'", "COMMENT ON CONSTRAINT line ON {}.parts IS NULL"),
    ("COMMENT ON INDEX {}.lines_pkey IS 'of lines'", "COMMENT ON INDEX {}.lines_pkey IS NULL"),
    ("COMMENT ON TRIGGER keep ON {}.lines IS 'kept'", "COMMENT ON TRIGGER keep ON {}.lines IS NULL"),
    ("COMMENT ON VIEW {}.known IS 'seen'", "COMMENT ON VIEW {}.known IS NULL"),
    ("CREATE STATISTICS {0}.both ON id, n FROM {0}.lines", "DROP STATISTICS {}.both"),
    ("ALTER TABLE {}.lines ALTER COLUMN n SET STATISTICS 7", "ALTER TABLE {}.lines ALTER COLUMN n SET STATISTICS -1"),
    ("ALTER TABLE {}.lines ALTER n SET (n_distinct = 7)", "ALTER TABLE {}.lines ALTER n RESET (n_distinct)"),
    (
        "ALTER TABLE {}.lines ALTER COLUMN t SET COMPRESSION pglz",
        "ALTER TABLE {}.lines ALTER COLUMN t SET COMPRESSION default",
    ),
    ("ALTER TABLE {}.lines CLUSTER ON lines_pkey", "ALTER TABLE {}.lines SET WITHOUT CLUSTER"),
    ("ALTER TABLE {}.lines REPLICA IDENTITY USING INDEX lines_pkey", "ALTER TABLE {}.lines REPLICA IDENTITY DEFAULT"),
    ("CREATE TABLE {}.more (key bigint PRIMARY KEY)", "DROP TABLE {}.more"),
    ("CREATE VIEW {}.seen AS SELECT 1 AS one", "DROP VIEW {}.seen"),
]


@pytest.fixture(scope="module")
def small(server_urls: list[str]) -> Iterator[Place]:
    with databases(server_urls[:2]) as urls:
        own = Place(shop_config(urls, partitions=1))
        try:
            own.router.create_schema(DDL, {"lines": Sharded("key"), "parts": Sharded("key")})
            own.router.copy_into("lines", [(key, key, key, "") for key in range(20)])
            yield own
        finally:
            own.close()


@pytest.mark.parametrize("at", range(len(CHANGES)))
@pytest.mark.parametrize(
    ("mode", "point"),
    [
        ("trigger", "finish:after"),
        pytest.param("trigger", "catch_up:after", marks=pytest.mark.slow),
        pytest.param("logical", "catch_up:after", marks=pytest.mark.slow),
    ],
)
def test_a_definition_that_changes_meanwhile(
    small: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode, point: str, at: int
) -> None:
    source = small.owner(0)
    change, back = (statement.format(schema(0)) for statement in CHANGES[at])
    written_at(monkeypatch, {f"move:{point}": lambda: small.sql(source, change)})
    with pytest.raises((MoveError, SchemaDrift)):
        move_partition(small.router, 0, small.other(0), mode=mode)
    assert small.owner(0) == source
    small.sql(source, back)
    small.assert_clean()


def test_a_foreign_key_that_is_validated_meanwhile(small: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's are validated after the switch; until then they differ in this."""
    source, target = small.owner(0), small.other(0)
    written_at(monkeypatch, {})
    move_partition(small.router, 0, target, mode="trigger")
    query = f"SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND connamespace = '{schema(0)}'::regnamespace"
    assert small.sql(target, query) == [(True,)]
    move_partition(small.router, 0, source, mode="trigger", keep=3600)
    assert small.sql(source, query) == [(True,)]
    move_partition(small.router, 0, target)  # the way back
    assert small.sql(target, query) == [(True,)]
    small.assert_clean()


def test_a_definition_that_changes_before_the_way_back(small: Place) -> None:
    source, target = small.owner(0), small.other(0)
    move_partition(small.router, 0, target, mode="trigger", keep=3600)
    small.sql(target, f"ALTER TABLE {schema(0)}.lines ADD COLUMN more int DEFAULT 5")
    with pytest.raises(MoveError, match="more"):
        move_partition(small.router, 0, source)
    assert small.owner(0) == target
    small.sql(target, f"ALTER TABLE {schema(0)}.lines DROP COLUMN more")
    move_partition(small.router, 0, source)
    small.assert_clean()
