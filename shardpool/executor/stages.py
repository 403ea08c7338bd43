"""Making the stages of a plan: temporary tables of the merge node, filled from all shards, and copied to them."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from shardpool.errors import GatherTooLarge
from shardpool.executor.relay import FanOut, Producer, Relay, RelayStopped
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import Leases, Scatter, Work, failure, on_shards
from shardpool.executor.texts import open_cursor
from shardpool.planner.plan import READ_ONLY, ByShard, Computed, PartialRows, Relation, Stage, union_all
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition
from shardpool.topology.tables import Column

Parameters = Mapping[str, Any]
#: Tables with fewer rows are not analysed: any plan will do.
ANALYSE_ROWS = 1000
#: Tables with fewer rows are not indexed.
INDEX_ROWS = 100
#: Rows that are sampled are 300 times this (PostgreSQL's default is 100): temporary tables live for one query.
STATISTICS_TARGET = 10

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN format('%%I.%%I', n.nspname, o.collname) END
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation
LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum
"""


_REFUSE_WRITES = """
CREATE FUNCTION pg_temp.shardpool_read_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = format(
        'cannot execute %%s of %%I in a query over several shards: what a function writes there would be lost', tg_op,
        tg_table_name
    );
END $$
"""
#: What a shard sends another is kept in memory up to this size, in bytes.
SHARE_BYTES = 1 << 20


class Counted:
    """A file for COPY TO; *on_bytes* gets the size of what is written."""

    def __init__(self, file: Any, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        self._on_bytes(len(data))
        return int(self._file.write(data))


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
    ) -> None:
        """*partition* is any one on the merge node, if there is one. *texts*: values are fetched as spelt."""
        self.node = node
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
                return self._divided(stage)
            case Relation():
                rows = self._relation(stage)
            case PartialRows():
                rows = self._partial(stage)
            case Computed():
                names = _column_names(stage.columns)
                rows = self.execute(f"CREATE TEMPORARY TABLE {stage.name}{names} ON COMMIT DROP AS {stage.sql}")
        if stage.spread:
            definition = _definition(self._columns(self.node, _temporary(stage.name)))
            self._spread(stage.name, definition, _finishing(stage, rows))
        for statement in _finishing(stage, rows):
            self.execute(statement)
        return rows

    def protect(self, stages: Sequence[Stage]) -> None:
        """Let nothing write the tables of *stages*: a read-only transaction may write temporary tables."""
        self.execute(_REFUSE_WRITES)
        for stage in stages:
            self.execute(
                "CREATE TRIGGER shardpool_read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE "
                f"ON {_temporary(stage.name)} EXECUTE FUNCTION pg_temp.shardpool_read_only()"
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
        name = _text(quote(stage.name))
        if self._partition is None:
            definition = _definition(stage.columns)
            self.execute(f"CREATE TEMPORARY TABLE {name} ({definition}) ON COMMIT DROP")
            return self._filled(_temporary(stage.name), lambda: 0, stage.select, stage.by_shard, stage.appended)
        return self._like_own(name, stage)

    def _partial(self, stage: PartialRows) -> int:
        return self._like_own(f"{stage.name}{_column_names(stage.columns)}", stage)

    def _like_own(self, name: str, stage: Relation | PartialRows) -> int:
        """The table takes its columns from the query itself, as the merge node understands it."""
        own = stage.by_shard.get(self.node)
        assert self._partition is not None
        query = union_all(stage.select, own or (self._partition,), stage.appended)
        data = "" if own else " WITH NO DATA"

        def create() -> int:
            rows = max(self.execute(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}{data}"), 0)
            if isinstance(stage, Relation):
                self._count_local(stage.name)
            return rows

        return self._filled(_temporary(stage.name), create, stage.select, stage.by_shard, stage.appended)

    def _filled(self, table: str, own: Callable[[], int], select: str, by_shard: ByShard, appended: str = "") -> int:
        """Fill a table with the merge node's *own* rows and, of the other shards, those of *select*; return how many.

        The other shards begin at once: their rows wait in the relay until the merge node has its own.
        """
        remote = [shard for shard in by_shard if shard != self.node]
        if not remote:
            return own()
        relay = Relay(len(remote), self._count)

        def produce(shard: str, connection: Any) -> None:
            producer = Producer(relay)
            with connection.cursor() as cursor:
                query = cursor.mogrify(union_all(select, by_shard[shard], appended), self.parameters).decode()
                cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", producer)
            producer.close()

        def consume(connection: Any) -> int:
            rows = own()
            with connection.cursor() as cursor:
                cursor.copy_expert(f"COPY {_plain(table)} FROM STDIN (FORMAT binary)", relay)
                return rows + int(cursor.rowcount)

        return self._relayed([relay], dict.fromkeys(remote, produce), consume)

    # -- dividing ---------------------------------------------------------------------------------------------------

    def _divided(self, stage: Relation) -> int:
        """Divide the rows among the shards; return their number.

        A connection cannot send and receive at once: each shard first writes the others' shares to files, kept in
        memory while they are small, and reads its own from those of the others then.
        """
        name, table = quote(stage.name), _temporary(stage.name)
        with contextlib.ExitStack() as stack:
            shares = {
                (source, target): stack.enter_context(tempfile.SpooledTemporaryFile(SHARE_BYTES))
                for source in stage.by_shard
                for target in stage.targets
                if source != target
            }

            def send(shard: str, connection: Any) -> int:
                rows = 0
                with connection.cursor() as cursor:
                    for place, target in enumerate(stage.targets):
                        query = cursor.mogrify(self._share(stage, shard, place), self.parameters).decode()
                        if target == shard:
                            cursor.execute(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}")
                            rows += int(cursor.rowcount)
                        else:
                            file = Counted(shares[shard, target], self._count)
                            cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", file)
                return rows

            def receive(shard: str, connection: Any) -> int:
                rows = 0
                with connection.cursor() as cursor:
                    if shard not in stage.by_shard:
                        cursor.execute(f"CREATE TEMPORARY TABLE {name} ({_plain(definition)}) ON COMMIT DROP")
                    for source in stage.by_shard:
                        if source != shard:
                            shares[source, shard].seek(0)
                            statement = f"COPY {_plain(table)} FROM STDIN (FORMAT binary)"
                            cursor.copy_expert(statement, shares[source, shard])
                            rows += int(cursor.rowcount)
                return rows

            sent = self.scatter(dict.fromkeys(stage.by_shard, send))
            definition = _definition(self._columns(next(iter(stage.by_shard)), table))
            received = self.scatter(dict.fromkeys(stage.targets, receive))
        rows = {shard: sent.get(shard, 0) + received[shard] for shard in stage.targets}
        self.scatter({shard: _finisher(stage, count) for shard, count in rows.items()})
        return int(sum(rows.values()))

    def _share(self, stage: Relation, shard: str, place: int) -> str:
        """The query for a shard's rows that go to the target at a *place*. Those without a value go to the first."""
        rows = union_all(stage.select, stage.by_shard[shard], stage.appended)
        value = f"CAST(shardpool_rows.{_text(quote(stage.divided_by))} AS text)"
        number = f"coalesce(CAST(CAST('x' || left(md5({value}), 7) AS bit(28)) AS integer) %% {len(stage.targets)}, 0)"
        return f"SELECT * FROM ({rows}) AS shardpool_rows WHERE {number} = {place}"

    # -- spreading --------------------------------------------------------------------------------------------------

    def _spread(self, name: str, definition: str, finishing: list[str]) -> None:
        """Copy a table of the merge node to all other shards."""
        others = [shard for shard in self._leases.shards if shard != self.node]
        relays = {shard: Relay(1, self._count) for shard in others}
        fan_out = FanOut(list(relays.values()))

        def consume(shard: str, connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TEMPORARY TABLE {_text(quote(name))} ({definition}) ON COMMIT DROP", {})
                cursor.copy_expert(f"COPY {_plain(_temporary(name))} FROM STDIN (FORMAT binary)", relays[shard])
                for statement in finishing:
                    cursor.execute(statement, {})

        def produce(connection: Any) -> int:
            producer = Producer(fan_out)
            with connection.cursor() as cursor:
                cursor.copy_expert(f"COPY {_plain(_temporary(name))} TO STDOUT (FORMAT binary)", producer)
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

    def _columns(self, shard: str, table: str) -> list[Column]:
        """The columns of a shard's temporary table, for making it on other shards."""
        with self._leases.connection(shard).cursor() as cursor:
            cursor.execute(_COLUMNS, (_plain(table),))
            return [
                Column(name, sql_type, collation=collation or "") for name, sql_type, collation in cursor.fetchall()
            ]

    def _count_local(self, name: str) -> None:
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute("SELECT pg_table_size(%s)", (_plain(_temporary(name)),))
            self._count(cursor.fetchone()[0])

    def _count(self, size: int) -> None:
        with self._counting:
            self.bytes += size
        if self._too_large():
            raise GatherTooLarge(self.bytes, self._max_bytes)

    def _too_large(self) -> bool:
        return self.bytes > self._max_bytes


def _finisher(stage: Stage, rows: int) -> Work[None]:
    def finish(shard: str, connection: Any) -> None:
        with connection.cursor() as cursor:
            for statement in _finishing(stage, rows):
                cursor.execute(statement, {})

    return finish


def _is_own(error: BaseException) -> bool:
    """Whether the merge node's error is one of its own, not what the failure of another end made of it."""
    return isinstance(error, psycopg2.Error) and error.pgcode not in (None, errorcodes.QUERY_CANCELED)


def _finishing(stage: Stage, rows: int) -> list[str]:
    """What makes a filled table fit for use. A primary key is needed by the statement, the rest pays with many rows."""
    table = _temporary(stage.name)
    found = []
    if isinstance(stage, Relation):
        if stage.primary_key:
            found.append(f"ALTER TABLE {table} ADD PRIMARY KEY ({_column_list(stage.primary_key)})")
        if rows >= INDEX_ROWS:
            found += [f"CREATE INDEX ON {table} ({_column_list(columns)})" for columns in stage.indexes]
    if rows >= ANALYSE_ROWS or (rows and stage.spread):
        found += [f"SET LOCAL default_statistics_target = {STATISTICS_TARGET}", f"ANALYZE {table}"]
    return found


def _definition(columns: Sequence[Column]) -> str:
    return _text(
        ", ".join(
            f"{quote(column.name)} {column.type}" + (f" COLLATE {column.collation}" if column.collation else "")
            for column in columns
        )
    )


def _column_list(names: tuple[str, ...]) -> str:
    return _text(", ".join(map(quote, names)))


def _column_names(count: int) -> str:
    return f" ({', '.join(f'c{number}' for number in range(1, count + 1))})" if count else ""


def _temporary(name: str) -> str:
    return _text(f"pg_temp.{quote(name)}")


def _text(sql: str) -> str:
    """Return *sql* for a statement with parameters, where psycopg2 wants percent signs doubled."""
    return sql.replace("%", "%%")


def _plain(sql: str) -> str:
    """Return *sql* for a statement without parameters."""
    return sql.replace("%%", "%")
