"""What making a column unique would do, and what is in its way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from shardpool.ddl.log import running_move
from shardpool.errors import GatherTooLarge, PreflightFailed
from shardpool.moves.sizes import read_sizes
from shardpool.moves.unique.locking import LOCKING, named, patiently, texts
from shardpool.router import Router
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

#: So many values that several rows have are told.
SHOWN = 20
#: Jobs that follow partitions by what they have noted in them.
_FOLLOWING = (
    "SELECT name FROM shardpool_catalog.job WHERE keyspace = :keyspace AND state NOT IN ('done', 'cancelled') "
    "AND kind IN ('replicate', 'import') ORDER BY 1"
)
_CASCADING = """
SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'
AND (confupdtype IN ('c', 'n', 'd') OR confdeltype IN ('c', 'n', 'd')) ORDER BY 1
"""


@dataclass(frozen=True)
class Duplicate:
    """A value that several rows have, and the keys of two of them, as the server spells them."""

    value: str
    keys: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.value!r} (keys {' and '.join(self.keys)})"


@dataclass(frozen=True)
class UniquePlan:
    """A column that is to be unique, and what that takes. Nothing has happened yet. `str()` describes it.

    `rows` is an estimate, and of all tables of the keyspace. `duplicates` are values that several rows have now, twenty
    at most; None if they were too many to look for.
    """

    table: str
    column: str
    reservations: str
    ddl: str
    partitions: int
    rows: int
    duplicates: tuple[Duplicate, ...] | None

    def __str__(self) -> str:
        lines = [
            f"make {self.table}.{self.column} unique over {self.partitions} partitions, by {self.reservations}",
            f"  {self.ddl}",
            f"  each partition gets a new number where it is; about {self.rows:,} rows lie there",
        ]
        if self.duplicates is None:
            lines.append("  whether a value is there twice is not known: the values are too many to look")
        lines += [f"  is there more than once: {it}" for it in self.duplicates or ()]
        return "\n".join(lines)


def plan_unique(router: Router, table: str, column: str, into: str | None = None) -> UniquePlan:
    """Plan to make a column of *table* unique over all partitions; its values are reserved in the table *into*, which
    is created, ``<table>_<column>`` if None. Raise `PreflightFailed` with all that is in the way, duplicates aside."""
    name = into or f"{table}_{column}"
    check_unique(router, table, column, name)
    found = router.topology.tables[table]
    return UniquePlan(
        table=table,
        column=column,
        reservations=name,
        ddl=_ddl(found, column, name),
        partitions=len(router.shard_map.partitions),
        rows=sum(it.rows for it in read_sizes(router)),
        duplicates=_duplicates(router, found, column),
    )


def check_unique(router: Router, table: str, column: str, name: str) -> None:
    """Raise `PreflightFailed` if a column cannot be made unique now, with its values reserved in table *name*."""
    router.refresh()
    problems = list(_problems(router, table, column, name))
    if problems:
        raise PreflightFailed(problems)


def _problems(router: Router, table: str, column: str, name: str) -> Iterator[str]:
    topology = router.topology
    found = topology.tables.get(table)
    if found is None or not found.sharded or table in topology.reservations:
        yield f"{table!r} is no sharded table of the keyspace with rows of its own"
        return
    known = found.column(column)
    if known is None or known.generated or column in found.key:
        yield f"{table}.{column} is no stored column beside the key"
    elif known.base_type not in KEY_TYPES:
        yield f"{table}.{column} is {known.type}; what can be reserved is one of {', '.join(KEY_TYPES)}"
    if column in dict(found.unique):
        yield f"{table}.{column} is unique already, by {dict(found.unique)[column]}"
    if not found.primary_key:
        yield f"{table} has no primary key, by which its rows are told apart"
    if name in topology.tables and not _is_left(router, found, column, name):
        yield f"table {name!r} exists, and is not just what would be created: choose another name"
    yield from _problems_of_servers(router, found)
    move = running_move(router.catalog)
    if move is not None:
        yield f"partition {move[0]} is moving from {move[1]} to {move[2]}, or its way back is kept: let that end first"
    with router.catalog.begin() as connection:
        for job in connection.execute(text(_FOLLOWING), {"keyspace": router.catalog.keyspace}).scalars():
            yield f"job {job!r} follows the partitions by their numbers: let it end first"


def _problems_of_servers(router: Router, table: Table) -> Iterator[str]:
    shards = router.shard_map.by_shard()
    for shard, partitions in shards.items():
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW max_prepared_transactions")
            if len(shards) > 1 and cursor.fetchone()[0] == "0":
                yield f"shard {shard} has max_prepared_transactions = 0: rows and reservations are written together"
            if shard == min(shards):
                relation = f"{quote(partitions[0].schema)}.{quote(table.name)}"
                cursor.execute(_CASCADING, (relation,))
                for (foreign_key,) in cursor.fetchall():
                    yield f"foreign key {foreign_key} changes or deletes rows whose values are reserved elsewhere"


def _is_left(router: Router, table: Table, column: str, name: str) -> bool:
    """Whether the table of reservations was created by an attempt that got no further."""
    found = router.topology.tables[name]
    same = found.key == (column,) == found.primary_key and {it.name for it in found.columns} == {column, *table.key}
    words = f"SELECT EXISTS (SELECT FROM {quote(name)})"
    return same and name not in router.topology.reservations and not router.query(words).scalar_one()


def _ddl(table: Table, column: str, name: str) -> str:
    defined = []
    for it in (column, *table.key):
        found = table.column(it)
        assert found is not None
        collation = f" COLLATE {found.collation}" if found.collation else ""
        defined.append(f"{quote(it)} {found.type}{collation} {'PRIMARY KEY' if it == column else 'NOT NULL'}")
    return f"CREATE TABLE {quote(name)} ({', '.join(defined)})"


def _duplicates(router: Router, table: Table, column: str) -> tuple[Duplicate, ...] | None:
    value = quote(column)
    words = (
        f"SELECT {value}::text FROM {quote(table.name)} WHERE {value} IS NOT NULL "
        f"GROUP BY {quote(table.name)}.{value} HAVING count(*) > 1 LIMIT {SHOWN}"
    )
    try:
        found = [str(it) for it in router.query(words).scalars()]
    except GatherTooLarge:
        return None
    return patiently(_confirmed, router, table, column, found) if found else ()


def _confirmed(router: Router, table: Table, column: str, values: Sequence[str]) -> tuple[Duplicate, ...]:
    """Return what rows that nobody changes meanwhile have in common: a value may have gone from one shard to another
    while it was looked for."""
    own = table.column(column)
    assert own is not None
    words = (
        f"SELECT {texts((column, *table.key))} FROM {named(table.name)} "
        f"WHERE {named(column)} = ANY (%(values)s::text[]::{own.type}[]) FOR SHARE"
    )
    found: list[Duplicate] = []
    seen: dict[str, str] = {}
    with router.transaction() as transaction:
        transaction.gives_way = True
        for it in sorted(transaction.topology.shard_map.placements, key=lambda it: it.shard):
            sql = LOCKING + transaction.topology.search_paths[it.partition.id] + words
            for value, *key in transaction.on_shard(it.shard, sql, {"values": list(values)}, [it], True).rows:
                if value in seen:
                    found.append(Duplicate(value, (seen[value], ", ".join(key))))
                seen.setdefault(value, ", ".join(key))
    return tuple(found[:SHOWN])
