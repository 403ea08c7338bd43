"""Reading and writing the catalog."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from shardpool.catalog.definitions import table_from_json, table_to_json
from shardpool.config import Config, Endpoint
from shardpool.errors import CatalogMissing, CatalogUnavailable, NoSuchShard
from shardpool.topology.shard_map import Placement, Shard, ShardMap, Topology, even_ranges, new_partition
from shardpool.topology.tables import Table, View

VERSION = 1
CHANNEL = "shardpool"


@dataclass(frozen=True)
class ShardIdentity:
    """What tells two databases apart, whatever their URLs say: the server's system identifier and the database."""

    system_identifier: str
    database: str


class Catalog:
    """The catalog of one keyspace. Methods raise `CatalogUnavailable` when the database does not answer."""

    def __init__(
        self,
        endpoint: Endpoint,
        keyspace: str,
        connect_timeout: int = 10,
        password: Callable[[], str] | None = None,
    ) -> None:
        """*password* is called for each new connection, if given."""
        self.keyspace = keyspace
        self.engine: Engine = create_engine(
            endpoint.full_url(),
            pool_size=2,
            max_overflow=8,
            pool_timeout=30,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                **endpoint.link(connect_timeout),
                "application_name": "shardpool catalog",
                # Locks, and the listener, are sessions that say nothing for long.
                "options": "-c idle_session_timeout=0",
            },
        )
        if password is not None:

            @event.listens_for(self.engine, "do_connect")
            def _add_password(dialect: object, record: object, args: object, parameters: dict[str, Any]) -> None:
                parameters["password"] = password()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def begin(self, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
        """A transaction on the catalog, committed at the end of the block; every statement in it is bounded in time."""
        try:
            with self.engine.connect().execution_options(isolation_level=isolation) as connection, connection.begin():
                # A decision that is acted upon must outlive a crash, whatever the server's default.
                connection.execute(text("SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'"))
                connection.execute(text("SET LOCAL synchronous_commit = on"))
                yield connection
        except OperationalError as error:
            if error.connection_invalidated or connection_failed(error):
                raise CatalogUnavailable(f"the catalog does not answer: {str(error.orig).strip()}") from error
            raise

    # -- setting up -------------------------------------------------------------------------------------------------

    def initialise(self, config: Config, identities: Mapping[str, ShardIdentity]) -> None:
        """Create the catalog and the keyspace with its partitions dealt evenly to the shards. Idempotent."""
        with self.begin() as connection:
            # One initialiser at a time; a second one finds everything done.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('shardpool initialise'))"))
            if not self._exists(connection):
                script = resources.files("shardpool.catalog").joinpath("schema.sql").read_text(encoding="utf-8")
                connection.exec_driver_sql(script)
            self._check_version(connection)
            known = text("SELECT 1 FROM shardpool_catalog.keyspace WHERE name = :keyspace")
            if connection.execute(known, {"keyspace": config.keyspace}).first() is None:
                self._create_keyspace(connection, config, identities)

    def _create_keyspace(self, connection: Connection, config: Config, identities: Mapping[str, ShardIdentity]) -> None:
        connection.execute(
            text("INSERT INTO shardpool_catalog.keyspace (name, epoch, timezone) VALUES (:keyspace, 1, :timezone)"),
            {"keyspace": config.keyspace, "timezone": config.timezone},
        )
        for name, endpoint in config.shards.items():
            self.insert_shard(connection, name, endpoint.url, identities[name])
        names = list(config.shards)
        for number, (low, high) in enumerate(even_ranges(config.partitions)):
            values = {"keyspace": config.keyspace, "id": number, "low": low, "high": high}
            values["shard"] = names[number * len(names) // config.partitions]
            connection.execute(
                text(
                    "INSERT INTO shardpool_catalog.partition (keyspace, id, low, high) "
                    "VALUES (:keyspace, :id, :low, :high)"
                ),
                values,
            )
            connection.execute(
                text(
                    "INSERT INTO shardpool_catalog.placement (keyspace, partition, shard, epoch) "
                    "VALUES (:keyspace, :id, :shard, 1)"
                ),
                values,
            )

    def insert_shard(self, connection: Connection, name: str, url: str, identity: ShardIdentity) -> None:
        """Register a shard. A database that is one already violates a unique constraint."""
        connection.execute(
            text(
                "INSERT INTO shardpool_catalog.shard (keyspace, name, url, system_identifier, database) "
                "VALUES (:keyspace, :name, :url, :system_identifier, :database)"
            ),
            {
                "keyspace": self.keyspace,
                "name": name,
                "url": url,
                "system_identifier": identity.system_identifier,
                "database": identity.database,
            },
        )

    def _exists(self, connection: Connection) -> bool:
        query = text("SELECT to_regclass('shardpool_catalog.version') IS NOT NULL")
        return bool(connection.execute(query).scalar_one())

    def _check_version(self, connection: Connection) -> None:
        version = connection.execute(text("SELECT max(version) FROM shardpool_catalog.version")).scalar_one()
        if version != VERSION:
            raise CatalogMissing(f"the catalog has version {version}, this shardpool works with version {VERSION}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def load(self) -> Topology:
        """Read the whole topology at one snapshot. Raise `CatalogMissing` or `InvalidShardMap`."""
        with self.begin("REPEATABLE READ") as connection:
            if not self._exists(connection):
                raise CatalogMissing("the catalog was never initialised: run `shardpool init`")
            self._check_version(connection)
            keyspace = self._rows(connection, "SELECT epoch, user_functions FROM shardpool_catalog.keyspace WHERE name")
            if not keyspace:
                raise CatalogMissing(f"keyspace {self.keyspace!r} is not in the catalog: run `shardpool init`")
            shards = self._rows(
                connection, "SELECT name, url, state, capacity FROM shardpool_catalog.shard WHERE keyspace"
            )
            partitions = self._rows(
                connection,
                "SELECT p.id, p.low, p.high, l.shard, l.epoch, l.moving FROM shardpool_catalog.partition p "
                "JOIN shardpool_catalog.placement l ON (l.keyspace, l.partition) = (p.keyspace, p.id) "
                "WHERE p.state = 'active' AND p.keyspace",
            )
            retired = self._rows(
                connection, "SELECT id, low, high FROM shardpool_catalog.partition WHERE state = 'retired' AND keyspace"
            )
            tables = self._rows(
                connection, "SELECT name, definition FROM shardpool_catalog.keyspace_table WHERE keyspace"
            )
            views = self._rows(
                connection,
                "SELECT name, columns, definition, sharded FROM shardpool_catalog.keyspace_view WHERE keyspace",
            )
        shard_map = ShardMap(
            keyspace=self.keyspace,
            epoch=keyspace[0].epoch,
            shards={row.name: Shard(row.name, row.url, row.state, row.capacity) for row in shards},
            placements=[
                Placement(new_partition(self.keyspace, row.id, row.low, row.high), row.shard, row.epoch, row.moving)
                for row in partitions
            ],
            retired={row.id: new_partition(self.keyspace, row.id, row.low, row.high) for row in retired},
        )
        found = {row.name: table_from_json(row.name, row.definition) for row in tables}
        known_views = {row.name: View(row.name, tuple(row.columns), row.definition, row.sharded) for row in views}
        return Topology(self.keyspace, shard_map, found, frozenset(keyspace[0].user_functions), known_views)

    def _rows(self, connection: Connection, query: str) -> Sequence[Any]:
        return connection.execute(text(query + " = :keyspace ORDER BY 1"), {"keyspace": self.keyspace}).all()

    def epoch(self) -> int:
        with self.begin() as connection:
            query = text("SELECT epoch FROM shardpool_catalog.keyspace WHERE name = :keyspace")
            return int(connection.execute(query, {"keyspace": self.keyspace}).scalar_one())

    def identities(self) -> dict[str, ShardIdentity]:
        """Return shard name -> identity, as registered."""
        with self.begin() as connection:
            rows = self._rows(
                connection, "SELECT name, system_identifier, database FROM shardpool_catalog.shard WHERE keyspace"
            )
        return {row.name: ShardIdentity(row.system_identifier, row.database) for row in rows}

    # -- changing ---------------------------------------------------------------------------------------------------

    def bump(self, connection: Connection) -> int:
        """Raise the epoch inside the caller's transaction; routers are told when it commits."""
        query = text("UPDATE shardpool_catalog.keyspace SET epoch = epoch + 1 WHERE name = :keyspace RETURNING epoch")
        epoch = int(connection.execute(query, {"keyspace": self.keyspace}).scalar_one())
        connection.execute(
            text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": f"{self.keyspace}:{epoch}"}
        )
        return epoch

    def add_shard(self, name: str, url: str, identity: ShardIdentity) -> None:
        """Register a shard that is ready to receive partitions, and raise the epoch."""
        with self.begin() as connection:
            self.insert_shard(connection, name, url, identity)
            self.bump(connection)

    def set_shard_state(self, name: str, state: str) -> None:
        """Mark a shard 'active', 'draining' or 'closed'."""
        query = text("UPDATE shardpool_catalog.shard SET state = :state WHERE keyspace = :keyspace AND name = :name")
        with self.begin() as connection:
            if connection.execute(query, {"state": state, "keyspace": self.keyspace, "name": name}).rowcount != 1:
                raise NoSuchShard(f"keyspace {self.keyspace!r} has no shard {name!r}")
            self.bump(connection)

    def set_shard_capacity(self, name: str, capacity: float) -> None:
        """Say how much a shard is to take, in proportion to the others."""
        query = "UPDATE shardpool_catalog.shard SET capacity = :capacity WHERE keyspace = :keyspace AND name = :name"
        values = {"capacity": capacity, "keyspace": self.keyspace, "name": name}
        with self.begin() as connection:
            if connection.execute(text(query), values).rowcount != 1:
                raise NoSuchShard(f"keyspace {self.keyspace!r} has no shard {name!r}")
            self.bump(connection)

    def set_shard_identity(self, name: str, identity: ShardIdentity) -> None:
        """Say which database a shard is from now on."""
        query = text(
            "UPDATE shardpool_catalog.shard SET system_identifier = :system, database = :database "
            "WHERE keyspace = :keyspace AND name = :name"
        )
        values = {"system": identity.system_identifier, "database": identity.database}
        with self.begin() as connection:
            connection.execute(query, {**values, "keyspace": self.keyspace, "name": name})

    def remove_shard(self, name: str) -> None:
        """Forget a shard without placements; the foreign key refuses one that still has some."""
        query = text("DELETE FROM shardpool_catalog.shard WHERE keyspace = :keyspace AND name = :name")
        with self.begin() as connection:
            if connection.execute(query, {"keyspace": self.keyspace, "name": name}).rowcount != 1:
                raise NoSuchShard(f"keyspace {self.keyspace!r} has no shard {name!r}")
            self.bump(connection)

    def save_tables(
        self, connection: Connection, tables: Mapping[str, Table | None], user_functions: Sequence[str]
    ) -> None:
        """Store definitions (None drops one) and the shards' function names, in the caller's transaction."""
        for name, table in tables.items():
            values = {"keyspace": self.keyspace, "name": name}
            if table is None:
                query = "DELETE FROM shardpool_catalog.keyspace_table WHERE keyspace = :keyspace AND name = :name"
            else:
                values["definition"] = json.dumps(table_to_json(table))
                query = (
                    "INSERT INTO shardpool_catalog.keyspace_table (keyspace, name, definition) "
                    "VALUES (:keyspace, :name, CAST(:definition AS jsonb)) "
                    "ON CONFLICT (keyspace, name) DO UPDATE SET definition = excluded.definition"
                )
            connection.execute(text(query), values)
        connection.execute(
            text("UPDATE shardpool_catalog.keyspace SET user_functions = :functions WHERE name = :keyspace"),
            {"functions": sorted(user_functions), "keyspace": self.keyspace},
        )

    def save_views(self, connection: Connection, views: Sequence[View]) -> None:
        """Store the keyspace's views, all of them, in the caller's transaction."""
        values = {"keyspace": self.keyspace}
        connection.execute(text("DELETE FROM shardpool_catalog.keyspace_view WHERE keyspace = :keyspace"), values)
        query = text(
            "INSERT INTO shardpool_catalog.keyspace_view (keyspace, name, columns, definition, sharded) "
            "VALUES (:keyspace, :name, :columns, :definition, :sharded)"
        )
        for view in views:
            connection.execute(query, values | asdict(view) | {"columns": list(view.columns)})

    @contextmanager
    def lock(self, name: str, busy: Callable[[], Exception]) -> Iterator[None]:
        """Hold a named lock of this keyspace while the block runs; raise *busy()* at once if somebody else has it.

        The lock is an advisory lock of a session of its own: it goes with the process, however that ends.
        """
        key = self._lock_key(name)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.execute(
                text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), key
            ).scalar_one():
                raise busy()
            try:
                yield
            finally:
                # The session is closed as well: the pool must not keep a lock whose unlock failed.
                with suppress(DBAPIError):
                    connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), key)
                connection.invalidate()

    def break_lock(self, name: str) -> None:
        """End the session that holds a named lock, and wait until it is gone."""
        query = text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
            "WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND (classid::bigint << 32) | objid::bigint = hashtextextended(:name, 0)"
        )
        with self.begin() as connection:
            # A role that acts as another one (ALTER ROLE .. SET role) may end its own sessions only as itself.
            connection.execute(text("SET LOCAL ROLE NONE"))
            connection.execute(query, self._lock_key(name))

    def _lock_key(self, name: str) -> dict[str, str]:
        return {"name": f"shardpool {self.keyspace} {name}"}


def connection_failed(error: DBAPIError) -> bool:
    """Whether *error* says that the server is not there, rather than that a statement is wrong."""
    return getattr(error.orig, "pgcode", None) is None or str(getattr(error.orig, "pgcode", "")).startswith(
        ("08", "57P")
    )
