"""The checks before a move: nothing has been created when they fail, and all that fail are told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg2

from shardpool.ddl.introspect import find_behind
from shardpool.ddl.log import read_log
from shardpool.ddl.owner import act_as_owner
from shardpool.engines.translate import translate
from shardpool.errors import PreflightFailed, ShardUnavailable
from shardpool.moves.grants import missing_roles, read_grants
from shardpool.moves.holders import read_holders
from shardpool.moves.layout import read_layout, schemas_of
from shardpool.moves.server_facts import differences, read_facts
from shardpool.router import Router
from shardpool.topology.names import partition_schema, quote
from shardpool.two_phase.names import parse_gid


@dataclass(frozen=True)
class Checked:
    """What the checks look at: a move that is planned, and a connection to each of its shards."""

    router: Router
    partition: int
    source_name: str
    target_name: str
    source: Any
    target: Any

    @property
    def schema(self) -> str:
        return partition_schema(self.router.topology.keyspace, self.partition)


def check_move(router: Router, partition: int, source: str, target: str) -> None:
    """Run all checks. Raise `PreflightFailed` with everything that is in the way; `ShardUnavailable` or `PoolTimeout`
    for a shard that does not answer."""
    failures: list[str] = []
    with ExitStack() as stack:
        connections = {shard: stack.enter_context(router.engines.borrow(shard)) for shard in (source, target)}
        for shard, connection in connections.items():
            _act_as_owner(connection, router.topology.keyspace, shard)
        checked = Checked(router, partition, source, target, connections[source], connections[target])
        for check in CHECKS:
            try:
                failures += check(checked)
            except psycopg2.Error as error:
                failures.append(f"{check.__name__.replace('_', ' ')}: {str(error).strip()}")
            for shard, connection in connections.items():
                if connection.closed:
                    raise ShardUnavailable(shard, failures[-1])
                connection.rollback()
    if failures:
        raise PreflightFailed(failures)


def _act_as_owner(connection: Any, keyspace: str, shard: str) -> None:
    try:
        act_as_owner(connection, keyspace)
        connection.commit()
    except psycopg2.errors.InsufficientPrivilege as error:
        owned = f"schema {keyspace} on shard {shard} belongs to another role"
        raise PreflightFailed([f"{owned}: {str(error).strip()}"]) from error
    except psycopg2.Error as error:
        raise translate(error, connection, shard, "", writes=False) from error


# -- the checks -----------------------------------------------------------------------------------------------------


def target_takes_partitions(checked: Checked) -> Iterable[str]:
    shard = checked.router.topology.shard_map.shards[checked.target_name]
    if checked.target_name != checked.source_name and shard.state != "active":
        yield f"shard {shard.name} is {shard.state}: it takes no partitions"


def shards_are_the_registered_databases(checked: Checked) -> Iterable[str]:
    registered = checked.router.catalog.identities()
    for shard, connection in ((checked.source_name, checked.source), (checked.target_name, checked.target)):
        found = read_facts(connection).identity
        if found != registered[shard]:
            yield (
                f"shard {shard} is database {found.database} of system {found.system_identifier}, but was registered "
                f"as {registered[shard].database} of {registered[shard].system_identifier}: correct its URL, or "
                f"after an upgrade or a restore `shardpool shard register {shard}`"
            )


def servers_agree(checked: Checked) -> Iterable[str]:
    source, target = read_facts(checked.source), read_facts(checked.target)
    return differences(checked.target_name, target, checked.source_name, source)


def no_schema_change_is_unfinished(checked: Checked) -> Iterable[str]:
    if read_log(checked.router.catalog, "running"):
        yield "a schema change is unfinished: apply it again, or call resume()"


def schema_is_on_the_source_only(checked: Checked) -> Iterable[str]:
    if not schemas_of(checked.source, [checked.schema]):
        yield f"shard {checked.source_name} has no schema {checked.schema}"
    if checked.target_name != checked.source_name and schemas_of(checked.target, [checked.schema]):
        yield f"shard {checked.target_name} has a schema {checked.schema} already: look what it is, and drop it"


def source_has_the_recorded_tables(checked: Checked) -> Iterable[str]:
    """What was created behind shardpool's back would not be created on the target."""
    expected = {table.name for table in checked.router.topology.tables.values() if table.sharded}
    found = {table.name for table in read_layout(checked.source, checked.schema)}
    for name in sorted(expected - found):
        yield f"table {checked.schema}.{name} is missing on shard {checked.source_name}"
    for name in sorted(found - expected):
        yield f"table {checked.schema}.{name} is not one of the keyspace's"
    for (name,) in _ask(checked.source, _OTHER_OBJECTS, quote(checked.schema), _known_views(checked)):
        yield f"{name} on shard {checked.source_name} was not created by a schema script"


def nothing_stands_behind_the_tables(checked: Checked) -> Iterable[str]:
    """A statement that is late must fail, rather than find another table of the same name further on its path."""
    topology = checked.router.topology
    for shard, connection in ((checked.source_name, checked.source), (checked.target_name, checked.target)):
        with connection.cursor() as cursor:
            for schema, name in find_behind(cursor, topology.keyspace, topology.sharded_names):
                yield f"shard {shard} has a relation {schema}.{name}: rename or drop it"


def nothing_reaches_the_tables_by_another_name(checked: Checked) -> Iterable[str]:
    """What is bound to the tables themselves would go on reading or writing them after they were renamed."""
    for (name,) in _ask(checked.source, _OTHER_NAMES, quote(checked.schema), _known_views(checked)):
        yield f"{name} on shard {checked.source_name} uses tables of {checked.schema}: drop it"


def _known_views(checked: Checked) -> list[str]:
    return [view.name for view in checked.router.topology.views.values() if view.sharded]


def no_transaction_is_prepared(checked: Checked) -> Iterable[str]:
    """But for the router's own: they are being committed, or were resolved before, and the lock waits for them."""
    for holder in read_holders(checked.source, checked.schema):
        if holder.pid is None and holder.gid is not None and parse_gid(holder.gid) is None:
            yield f"{holder} on shard {checked.source_name} has used the partition: commit it or roll it back"


def privileges_suffice(checked: Checked) -> Iterable[str]:
    for name, connection in ((checked.source_name, checked.source), (checked.target_name, checked.target)):
        (allowed,) = _ask(connection, "SELECT has_database_privilege(current_database(), 'CREATE')")[0]
        if not allowed:
            yield f"the role may not create schemas on shard {name} (GRANT CREATE ON DATABASE)"
    for (owner,) in _ask(checked.source, _FOREIGN_OWNERS, quote(checked.schema), quote(checked.schema)):
        yield f"{owner} on shard {checked.source_name} belongs to another role"


def roles_with_rights_exist(checked: Checked) -> Iterable[str]:
    grants = read_grants(checked.source, checked.schema)
    for role in missing_roles(checked.target, grants):
        yield f"role {role} has rights on {checked.schema}, and does not exist on shard {checked.target_name}"


CHECKS: tuple[Callable[[Checked], Iterable[str]], ...] = (
    target_takes_partitions,
    shards_are_the_registered_databases,
    servers_agree,
    no_schema_change_is_unfinished,
    schema_is_on_the_source_only,
    source_has_the_recorded_tables,
    nothing_stands_behind_the_tables,
    nothing_reaches_the_tables_by_another_name,
    no_transaction_is_prepared,
    privileges_suffice,
    roles_with_rights_exist,
)

_OTHER_OBJECTS = """
WITH s AS (SELECT to_regnamespace(%s)::oid AS oid)
SELECT pg_describe_object('pg_class'::regclass, c.oid, 0) FROM pg_class c, s
WHERE c.relnamespace = s.oid AND c.relkind NOT IN ('r', 'i', 't') AND NOT (c.relkind = 'v' AND c.relname = ANY(%s))
UNION ALL
SELECT pg_describe_object('pg_proc'::regclass, p.oid, 0) FROM pg_proc p, s WHERE p.pronamespace = s.oid
UNION ALL
SELECT pg_describe_object('pg_type'::regclass, t.oid, 0) FROM pg_type t, s
WHERE t.typnamespace = s.oid AND t.typrelid = 0 AND t.typelem = 0
ORDER BY 1
"""

# Views (but for the keyspace's own, which go with the schema); SQL functions bound to tables, foreign keys from
# elsewhere; parents of inheritance; subscriptions.
_OTHER_NAMES = """
WITH t AS (SELECT oid, relnamespace FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r')
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.deptype = 'n'
LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_class v ON v.oid = w.ev_class AND v.relnamespace = t.relnamespace AND v.relname = ANY(%s)
WHERE (d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass) AND v.oid IS NULL)
OR k.connamespace <> t.relnamespace
UNION
SELECT pg_describe_object('pg_class'::regclass, i.inhparent, 0) FROM t JOIN pg_inherits i ON i.inhrelid = t.oid
UNION
SELECT 'a subscription to ' || pg_describe_object('pg_class'::regclass, r.srrelid, 0)
FROM t JOIN pg_subscription_rel r ON r.srrelid = t.oid
ORDER BY 1
"""

_FOREIGN_OWNERS = """
SELECT pg_describe_object('pg_namespace'::regclass, n.oid, 0) FROM pg_namespace n
WHERE n.oid = to_regnamespace(%s) AND NOT pg_has_role(n.nspowner, 'USAGE')
UNION ALL
SELECT pg_describe_object('pg_class'::regclass, c.oid, 0) FROM pg_class c
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY 1
"""


def _ask(connection: Any, query: str, *values: object) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())
