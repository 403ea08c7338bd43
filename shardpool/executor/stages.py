"""Making the stages of a plan: temporary tables of the merge node, filled from all shards, and copied to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from shardpool.errors import GatherTooLarge
from shardpool.executor.dividing import divide
from shardpool.executor.relay import FanOut, Producer, Relay, RelayStopped
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import Leases, Scatter, Work, failure, frugal, on_shards
from shardpool.executor.temporary import column_names, columns_of, definition_of, finishing, plain, temporary, text
from shardpool.executor.texts import open_cursor
from shardpool.planner.plan import READ_ONLY, ByShard, Computed, PartialRows, Relation, Stage, union_all
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition

Parameters = Mapping[str, Any]

_REFUSE_WRITES = """
CREATE FUNCTION pg_temp.shardpool_read_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = format(
        'cannot execute %%s of %%I in a query over several shards: what a function writes there would be lost', tg_op,
        tg_table_name
    );
END $$
"""


class Job:
    """One query's work on its merge node, in a transaction there (and on all shards, if stages are spread)."""

    def __init__(
        self,
        node: str,
        partition: Partition | None,
        leases: Leases,
        threads: ThreadPoolExecutor,
        parameters: Parameters,
        max_bytes: int,
        texts: bool = False,
        apart: bool = False,
        held: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """*partition* is any one on the merge node, if there is one. *texts*: values are fetched as spelt. *apart*: the
        merge node is a session beside a transaction, whose locks it is not to wait for. *held*: partial rows that were
        read before, by shard, in binary COPY format.
        """
        self.node = node
        self._apart = apart
        self._held = held
        self._partition = partition
        self._leases = leases
        self._threads = threads
        self.parameters = parameters
        self._max_bytes = max_bytes
        self.texts = texts
        #: What has travelled so far.
        self.bytes = 0
        self._counting = threading.Lock()

    def make(self, stage: Stage) -> int:
        """Make a stage's table; return its number of rows."""
        match stage:
            case Relation() if stage.divided_by:
                return divide(self, stage)
            case Relation():
                rows = self._relation(stage)
            case PartialRows():
                rows = self._partial(stage)
            case Computed():
                names = column_names(stage.columns)
                rows = self.execute(f"CREATE TEMPORARY TABLE {stage.name}{names} ON COMMIT DROP AS {stage.sql}")
        if stage.spread:
            definition = definition_of(columns_of(self._leases.connection(self.node), stage.name))
            self._spread(stage.name, definition, finishing(stage, rows))
        for statement in finishing(stage, rows):
            self.execute(statement)
        return rows

    def protect(self, stages: Sequence[Stage]) -> None:
        """Let nothing write the tables of *stages*: a read-only transaction may write temporary tables."""
        self.execute(_REFUSE_WRITES)
        for stage in stages:
            self.execute(
                "CREATE TRIGGER shardpool_read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE "
                f"ON {temporary(stage.name)} EXECUTE FUNCTION pg_temp.shardpool_read_only()"
            )

    def scatter(self, works: Mapping[str, Work[Any]]) -> dict[str, Any]:
        """Do work on several shards at once; return the results, or fail as a whole."""
        return on_shards(self._threads, self._leases, works)

    def cursor(self, shard: str, sql: str) -> Any:
        """Open a query on a shard whose rows stay there until they are fetched."""
        connection = self._leases.connection(shard)
        if sql.startswith(READ_ONLY):
            connection.cursor().execute(READ_ONLY)
        cursor = connection.cursor(name="shardpool_stream")
        cursor.execute(sql.removeprefix(READ_ONLY), self.parameters)
        return cursor

    def fetch(self, sql: str) -> RoutedResult:
        """Return the rows of the merge query."""
        with open_cursor(self._leases.connection(self.node), self.texts) as cursor:
            cursor.execute(sql, self.parameters)
            rows = cursor.fetchall()
            return RoutedResult(cursor.description, rows, len(rows))

    def execute(self, sql: str) -> int:
        """Run a statement on the merge node; return the number of rows."""
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute(sql, self.parameters)
            return int(cursor.rowcount)

    # -- filling ----------------------------------------------------------------------------------------------------

    def _relation(self, stage: Relation) -> int:
        name = text(quote(stage.name))
        if self._partition is None or self._apart:
            definition = definition_of(stage.columns)
            self.execute(f"CREATE TEMPORARY TABLE {name} ({definition}) ON COMMIT DROP")
            return self._filled(temporary(stage.name), lambda: 0, stage.select, stage.by_shard, stage.appended)
        return self._like_own(name, stage)

    def _partial(self, stage: PartialRows) -> int:
        return self._like_own(f"{stage.name}{column_names(stage.columns)}", stage)

    def _like_own(self, name: str, stage: Relation | PartialRows) -> int:
        """The table takes its columns from the query itself, as the merge node understands it."""
        own = stage.by_shard.get(self.node)
        assert self._partition is not None
        query = union_all(stage.select, own or (self._partition,), stage.appended)
        data = "" if own else " WITH NO DATA"

        def create() -> int:
            creation = f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}{data}"
            rows = max(self.execute(frugal(creation, len(own or ()))), 0)
            if isinstance(stage, Relation):
                self._count_local(stage.name)
            return rows

        if own is None:
            # Nothing of its own to wait for; and what fails here leaves the connections of the others alone.
            create()
        first = create if own is not None else lambda: 0
        return self._filled(temporary(stage.name), first, stage.select, stage.by_shard, stage.appended)

    def _filled(self, table: str, own: Callable[[], int], select: str, by_shard: ByShard, appended: str = "") -> int:
        """Fill a table with the merge node's *own* rows and, of the other shards, those of *select*; return how many.

        The other shards begin at once: their rows wait in the relay until the merge node has its own.
        """
        remote = [shard for shard in by_shard if shard != self.node]
        if not remote:
            return own()
        relay = Relay(len(remote), self.count)

        def produce(shard: str, connection: Any) -> None:
            producer = Producer(relay)
            if shard in self._held:
                producer.write(self._held[shard])
                return producer.close()
            with connection.cursor() as cursor:
                query = cursor.mogrify(union_all(select, by_shard[shard], appended), self.parameters).decode()
                copy = f"COPY ({query}) TO STDOUT (FORMAT binary)"
                cursor.copy_expert(frugal(copy, len(by_shard[shard])), producer)
            return producer.close()

        def consume(connection: Any) -> int:
            rows = own()
            with connection.cursor() as cursor:
                cursor.copy_expert(f"COPY {plain(table)} FROM STDIN (FORMAT binary)", relay)
                return rows + int(cursor.rowcount)

        return self._relayed([relay], dict.fromkeys(remote, produce), consume)

    # -- spreading --------------------------------------------------------------------------------------------------

    def _spread(self, name: str, definition: str, finishing: list[str]) -> None:
        """Copy a table of the merge node to all other shards."""
        others = [shard for shard in self._leases.shards if shard != self.node]
        relays = {shard: Relay(1, self.count) for shard in others}
        fan_out = FanOut(list(relays.values()))

        def consume(shard: str, connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TEMPORARY TABLE {text(quote(name))} ({definition}) ON COMMIT DROP", {})
                cursor.copy_expert(f"COPY {plain(temporary(name))} FROM STDIN (FORMAT binary)", relays[shard])
                for statement in finishing:
                    cursor.execute(statement, {})

        def produce(connection: Any) -> int:
            producer = Producer(fan_out)
            with connection.cursor() as cursor:
                cursor.copy_expert(f"COPY {plain(temporary(name))} TO STDOUT (FORMAT binary)", producer)
            producer.close()
            return 0

        if others:
            self._relayed(list(relays.values()), dict.fromkeys(others, consume), produce)

    def _relayed(
        self, relays: list[Relay], others: Mapping[str, Callable[[str, Any], None]], on_node: Callable[[Any], int]
    ) -> int:
        """Run the two ends of relays: *others* in threads, *on_node* here. One failure stops all."""

        def stop() -> None:
            for relay in relays:
                relay.stop()

        def guarded(work: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
            def run(shard: str, connection: Any) -> None:
                try:
                    work(shard, connection)
                except BaseException as error:
                    stop()
                    if not isinstance(error, RelayStopped):
                        self._leases.cancel([self.node])
                    raise

            return run

        scatter = Scatter(self._threads, self._leases)
        try:
            for shard, work in others.items():
                scatter.start(shard, guarded(work))
            found = on_node(self._leases.connection(self.node))
            scatter.collect()
            return found
        except BaseException as error:
            stop()
            scatter.stop()
            # A connection that left COPY half way is not used again.
            for shard in scatter.errors():
                self._leases.abandon(shard)
            if self._too_large():
                raise GatherTooLarge(self.bytes, self._max_bytes) from error
            causes = {shard: e for shard, e in scatter.errors().items() if not isinstance(e, RelayStopped)}
            if causes and not _is_own(error):
                raise failure(causes, self._leases) from next(iter(causes.values()))
            raise

    # -- sizes ------------------------------------------------------------------------------------------------------

    def _count_local(self, name: str) -> None:
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute("SELECT pg_table_size(%s)", (plain(temporary(name)),))
            self.count(cursor.fetchone()[0])

    def count(self, size: int) -> None:
        """Take note of bytes that travel. Raise `GatherTooLarge`. Thread-safe."""
        with self._counting:
            self.bytes += size
        if self._too_large():
            raise GatherTooLarge(self.bytes, self._max_bytes)

    def _too_large(self) -> bool:
        return self.bytes > self._max_bytes


def _is_own(error: BaseException) -> bool:
    """Whether the merge node's error is one of its own, not what the failure of another end made of it."""
    return isinstance(error, psycopg2.Error) and error.pgcode not in (None, errorcodes.QUERY_CANCELED)
