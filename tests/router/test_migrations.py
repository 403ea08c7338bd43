"""Schema changes by SQLAlchemy and Alembic, through the router's engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, ForeignKey, MetaData, Table, Text, insert, inspect, select, text

from shardpool import Config, Reference, Router, Sharded
from shardpool.errors import SchemaError, UnsupportedStatement

ENV = """
from alembic import context

with context.config.attributes["router"].engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
FIRST = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "first", None


def upgrade():
    op.create_table(
        "notes",
        sa.Column("author", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("note_id", sa.BigInteger, primary_key=True),
        sa.Column("share", sa.Integer, sa.CheckConstraint("share % 2 = 0"), nullable=False),
    )
    op.create_index("notes_by_share", "notes", ["share"])


def downgrade():
    op.drop_table("notes")
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "second", "first"


def upgrade():
    op.add_column("notes", sa.Column("words", sa.Text))
    op.execute("UPDATE notes SET words = 'none'")


def downgrade():
    op.drop_column("notes", "words")
"""
THIRD = """
import sqlalchemy as sa
from alembic import context, op

revision, down_revision = "third", "second"


def upgrade():
    op.add_column("notes", sa.Column("extra", sa.Text))
    op.add_column("notes", sa.Column("size", sa.Integer))
    if "fails" in context.config.attributes:
        if "late" in context.config.attributes:
            op.execute("UPDATE notes SET size = 1")
        raise ZeroDivisionError


def downgrade():
    op.drop_column("notes", "size")
    op.drop_column("notes", "extra")
"""


@pytest.fixture
def router(config: Config) -> Iterator[Router]:
    kinds = {"notes": Sharded("author"), "replies": Sharded("author"), "alembic_version": Reference()}
    with Router(replace(config, tables={**config.tables, **kinds})) as found:
        yield found


def columns(router: Router, table: str) -> list[str]:
    return [column.name for column in router.topology.tables[table].columns]


def test_alembic_upgrades_and_downgrades(router: Router, tmp_path: Path) -> None:
    alembic = pytest.importorskip("alembic.command")
    from alembic.config import Config as AlembicConfig

    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    for number, migration in enumerate((FIRST, SECOND, THIRD)):
        (tmp_path / "versions" / f"{number}.py").write_text(migration)
    config = AlembicConfig()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.attributes["router"] = router

    alembic.upgrade(config, "first")
    router.query("INSERT INTO notes SELECT g, g, g * 2 FROM generate_series(1, 50) g")
    alembic.upgrade(config, "second")
    assert router.query("SELECT count(*) FROM notes WHERE words = 'none'").scalar_one() == 50
    assert router.topology.tables["notes"].key == ("author",)
    version = text("SELECT version_num FROM alembic_version")
    for shard in router.shard_map.shards:
        with router.shard(shard).engine.connect() as connection:
            connection.execute(text("SET search_path TO shop"))
            assert connection.scalars(version).all() == ["second"]
    config.attributes["fails"] = True
    with pytest.raises(ZeroDivisionError):
        alembic.upgrade(config, "head")
    assert "size" not in columns(router, "notes")
    config.attributes["late"] = True
    with pytest.raises(ZeroDivisionError):
        alembic.upgrade(config, "head")
    assert "size" in columns(router, "notes")
    assert router.query("SELECT count(size) FROM notes").scalar_one() == 0
    assert router.query(version).scalar_one() == "second"
    del config.attributes["fails"]
    for _ in range(2):  # what was done is not done again, but for what was undone meanwhile
        alembic.upgrade(config, "head")
        assert router.query("SELECT count(*) FROM notes WHERE extra IS NULL AND size IS NULL").scalar_one() == 50
        alembic.downgrade(config, "second")
    alembic.upgrade(config, "head")
    alembic.downgrade(config, "base")
    alembic.upgrade(config, "head")
    assert router.query("SELECT count(extra) FROM notes").scalar_one() == 0
    alembic.downgrade(config, "base")
    assert "notes" not in router.topology.tables
    assert router.query("SELECT count(*) FROM alembic_version").scalar_one() == 0


def test_metadata_creates_what_is_not_there(router: Router) -> None:
    metadata = MetaData()
    notes = Table(
        "notes",
        metadata,
        Column("author", BigInteger, primary_key=True, autoincrement=False),
        Column("words", Text, comment="100 % of them"),
    )
    for _ in range(2):
        metadata.create_all(router.engine)
    Table("replies", metadata, Column("author", ForeignKey(notes.c.author), primary_key=True))
    metadata.create_all(router.engine)
    with router.engine.begin() as connection:
        connection.execute(insert(notes), [{"author": number, "words": "x"} for number in range(20)])
        assert len(connection.execute(select(notes)).all()) == 20
        assert inspect(connection).has_table("replies")
    comment = "SELECT col_description('notes'::regclass, 2)"
    with router.connect(7) as connection:
        assert connection.execute(text(comment)).scalar_one() == "100 % of them"
    metadata.drop_all(router.engine)
    assert not {"notes", "replies"} & router.topology.tables.keys()


def test_a_schema_change_is_no_part_of_a_transaction(shop: Router) -> None:
    change = text("ALTER TABLE orders ADD COLUMN later text")
    with shop.session() as session:
        session.execute(text("DELETE FROM orders"))
        with pytest.raises(UnsupportedStatement, match=r"SP145.*commit before it"):
            session.execute(change)
        session.rollback()
        with session.begin_nested(), pytest.raises(UnsupportedStatement, match="SP145"):
            session.execute(change)
        session.rollback()
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(text("SELECT count(*) FROM orders"))
        with pytest.raises(UnsupportedStatement, match="SP145"):
            session.execute(change)
        session.rollback()
        session.execute(change)
        session.rollback()
        assert "later" not in columns(shop, "orders")
        session.execute(text("SELECT count(*) FROM orders"))
        session.execute(change)
        assert session.execute(text("SELECT count(later) FROM orders")).scalar_one() == 0
        session.execute(text("COMMENT ON COLUMN orders.later IS '1 %'; ALTER TABLE orders DROP COLUMN later;"))
        session.commit()
        assert "later" not in columns(shop, "orders")
    with shop.session() as session:
        session.execute(text("ALTER TABLE orders ADD COLUMN n serial"))
        with pytest.raises(SchemaError, match="SP223"):
            session.commit()


def test_a_table_is_reflected_from_a_partition(shop: Router) -> None:
    with shop.engine.connect() as connection, pytest.raises(UnsupportedStatement, match="SP106"):
        Table("orders", MetaData(), autoload_with=connection)
    partition = shop.partition_of(7)
    shard = shop.shard(shop.shard_of(7).name)
    orders = Table("orders", MetaData(), autoload_with=shard.engine, schema=partition.schema)
    assert [column.name for column in orders.primary_key] == ["customer_id", "order_id"]
