"""Running pushdown and gather plans: partial rows travel to the merge node, where PostgreSQL makes the result.

Everything on the merge node happens in one transaction that is rolled back: no temporary table outlives its query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2

from shardpool.engines import Engines
from shardpool.errors import GatherTooLarge, SchemaDrift
from shardpool.executor.relay import Producer, Relay, RelayStopped
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import Leases, Scatter, failure, leased
from shardpool.planner.plan import (
    PARTIAL_TABLE,
    ByShard,
    Concatenation,
    GatherPlan,
    MergeQuery,
    PushdownPlan,
    Relation,
    union_all,
)
from shardpool.topology.names import quote

Parameters = Mapping[str, Any]
#: Stands for a merge node apart; no shard has such a name.
APART = "the merge node"
#: Tables with fewer rows are not analysed: any plan will do.
ANALYSE_ROWS = 1000
#: Object identifiers from here on are given by each server for itself (FirstNormalObjectId).
FIRST_USER_OID = 16384


class Merger:
    """Runs the plans that read several partitions.

    *apart*: the merge node is not one of the connections that read, but one more to this shard.
    """

    def __init__(
        self,
        engines: Engines,
        threads: ThreadPoolExecutor,
        max_bytes: int,
        merge_node: str | None,
        apart: str | None = None,
    ) -> None:
        self._engines = engines
        self._threads = threads
        self._max_bytes = max_bytes
        self._merge_node = merge_node
        self._apart = apart

    def pushdown(self, plan: PushdownPlan, parameters: Parameters) -> RoutedResult:
        match plan.merge:
            case Concatenation():
                return self._concatenate(plan, plan.merge, parameters)
            case MergeQuery():
                return self._merge(plan, plan.merge, parameters)

    def _concatenate(self, plan: PushdownPlan, merge: Concatenation, parameters: Parameters) -> RoutedResult:
        def fetch(shard: str, connection: Any) -> tuple[Any, list[Any]]:
            with connection.cursor() as cursor:
                cursor.execute(union_all(plan.partial, plan.by_shard[shard]), parameters)
                return cursor.description, cursor.fetchall()

        with leased(self._engines, list(plan.by_shard)) as leases:
            scatter = Scatter(self._threads, leases)
            try:
                for shard in plan.by_shard:
                    scatter.start(shard, fetch)
                found = scatter.collect()
            except BaseException:
                scatter.stop()
                raise
        description = _common_description({shard: answer[0] for shard, answer in found.items()})
        rows = [row for shard in sorted(found) for row in found[shard][1]]
        first = _count(merge.offset, parameters) or 0
        limit = _count(merge.limit, parameters)
        rows = rows[first:] if limit is None else rows[first : first + limit]
        return RoutedResult(description, rows, len(rows))

    def _merge(self, plan: PushdownPlan, merge: MergeQuery, parameters: Parameters) -> RoutedResult:
        node = APART if self._apart else self._node(plan.by_shard)

        def work(job: _Job) -> RoutedResult:
            local = union_all(plan.partial, plan.by_shard[self._apart or node])
            rows = "WITH NO DATA" if self._apart else "WITH DATA"
            job.execute(f"CREATE TEMPORARY TABLE {PARTIAL_TABLE} ON COMMIT DROP AS {local} {rows}")
            job.load(PARTIAL_TABLE, plan.partial, plan.by_shard)
            return job.fetch(merge.sql)

        return self._on_node(node, {node, *plan.by_shard}, parameters, work)

    def gather(self, plan: GatherPlan, parameters: Parameters) -> RoutedResult:
        shards = {shard for relation in plan.relations for shard in relation.by_shard}
        node = APART if self._apart else self._merge_node or min(shards)

        def work(job: _Job) -> RoutedResult:
            for relation in plan.relations:
                _gather_relation(job, relation)
            return job.fetch(plan.sql)

        return self._on_node(node, shards | {node}, parameters, work)

    def _node(self, by_shard: ByShard) -> str:
        """The configured merge node if it has some of the rows: partial columns take their types there."""
        return self._merge_node if self._merge_node is not None and self._merge_node in by_shard else min(by_shard)

    def _on_node(
        self, node: str, shards: set[str], parameters: Parameters, work: Callable[[_Job], RoutedResult]
    ) -> RoutedResult:
        with leased(self._engines, list(shards)) as leases:
            connection = leases.connection(node)
            connection.autocommit = False
            try:
                return work(_Job(node, leases, self._threads, parameters, self._max_bytes))
            except BaseException as error:
                if not isinstance(error, Exception):
                    leases.abandon(node)
                    raise
                found = failure({node: error}, leases)
                raise found from (error if found is not error else error.__cause__)
            finally:
                _roll_back(connection, node, leases)


def _gather_relation(job: _Job, relation: Relation) -> None:
    columns = _text(
        ", ".join(
            f"{quote(column.name)} {column.type}" + (f" COLLATE {column.collation}" if column.collation else "")
            for column in relation.columns
        )
    )
    name = f"pg_temp.{quote(relation.name)}"
    table = _text(name)
    job.execute(f"CREATE TEMPORARY TABLE {_text(quote(relation.name))} ({columns}) ON COMMIT DROP")
    rows = 0
    if job.node in relation.by_shard:
        rows += job.execute(f"INSERT INTO {table} {union_all(relation.select, relation.by_shard[job.node])}")
        job.count_local(name)
    rows += job.load(name, relation.select, relation.by_shard)
    if relation.primary_key:
        key = _text(", ".join(map(quote, relation.primary_key)))
        job.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})")
    if rows >= ANALYSE_ROWS:
        job.execute(f"ANALYZE {table}")


def _text(sql: str) -> str:
    """Return *sql* for a statement with parameters, where psycopg2 wants percent signs doubled."""
    return sql.replace("%", "%%")


class _Job:
    """One query's work on its merge node."""

    def __init__(
        self, node: str, leases: Leases, threads: ThreadPoolExecutor, parameters: Parameters, max_bytes: int
    ) -> None:
        self.node = node
        self._leases = leases
        self._threads = threads
        self._parameters = parameters
        self._max_bytes = max_bytes
        self._bytes = 0

    def execute(self, sql: str) -> int:
        """Run a statement on the merge node; return the number of rows."""
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute(sql, self._parameters)
            return int(cursor.rowcount)

    def fetch(self, sql: str) -> RoutedResult:
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute(sql, self._parameters)
            rows = cursor.fetchall()
            return RoutedResult(cursor.description, rows, len(rows))

    def count_local(self, table: str) -> None:
        with self._leases.connection(self.node).cursor() as cursor:
            cursor.execute("SELECT pg_table_size(%s)", (table,))
            self._count(cursor.fetchone()[0])

    def load(self, table: str, select: str, by_shard: ByShard) -> int:
        """Copy the rows of *select* from the other shards' partitions into a table; return their number."""
        remote = [shard for shard in by_shard if shard != self.node]
        if not remote:
            return 0
        relay = Relay(len(remote), self._count)

        def produce(shard: str, connection: Any) -> None:
            producer = Producer(relay)
            with connection.cursor() as cursor:
                query = cursor.mogrify(union_all(select, by_shard[shard]), self._parameters).decode()
                cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", producer)
            producer.close()

        def produce_or_stop(shard: str, connection: Any) -> None:
            try:
                produce(shard, connection)
            except BaseException:
                relay.stop()
                raise

        scatter = Scatter(self._threads, self._leases)
        try:
            for shard in remote:
                scatter.start(shard, produce_or_stop)
            with self._leases.connection(self.node).cursor() as cursor:
                cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", relay)
                rows = int(cursor.rowcount)
            scatter.collect()
            return rows
        except BaseException as error:
            relay.stop()
            scatter.stop()
            # A connection that left COPY half way is not used again.
            for shard in scatter.errors():
                self._leases.abandon(shard)
            if self._too_large():
                raise GatherTooLarge(self._bytes, self._max_bytes) from error
            causes = {shard: e for shard, e in scatter.errors().items() if not isinstance(e, RelayStopped)}
            if causes:
                raise failure(causes, self._leases) from next(iter(causes.values()))
            raise

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._too_large():
            raise GatherTooLarge(self._bytes, self._max_bytes)

    def _too_large(self) -> bool:
        return self._bytes > self._max_bytes


def _roll_back(connection: Any, node: str, leases: Leases) -> None:
    """End the merge transaction; a connection that cannot is not used again."""
    try:
        connection.rollback()
        connection.autocommit = True
    except psycopg2.Error:
        leases.abandon(node)


def _common_description(descriptions: Mapping[str, Any]) -> Any:
    """Return the description of all shards' rows. Raise `SchemaDrift` if they differ: a schema change is half way.

    Types of users have another number on every server.
    """
    shapes = {
        shard: tuple((column[0], column[1] if column[1] < FIRST_USER_OID else None) for column in description)
        for shard, description in descriptions.items()
    }
    if len(set(shapes.values())) > 1:
        widths = ", ".join(f"{shard}: {len(shape)}" for shard, shape in sorted(shapes.items()))
        raise SchemaDrift(f"the shards answered with different columns ({widths}): is a schema change under way?")
    return next(iter(descriptions.values()))


def _count(value: int | str | None, parameters: Parameters) -> int | None:
    number = parameters[value] if isinstance(value, str) else value
    return None if number is None else int(number)
