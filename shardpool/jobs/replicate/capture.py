"""Noting which rows are written: triggers and log tables, as schema of the keyspace, so that they move along."""

from __future__ import annotations

from collections.abc import Mapping

from shardpool.errors import JobRefused
from shardpool.jobs.copy_schema import FEED
from shardpool.jobs.following import change_schema
from shardpool.router import Router
from shardpool.topology.names import literal, quote
from shardpool.topology.tables import Sharded, Table

#: Longest name that PostgreSQL keeps, in bytes.
LONGEST = 63


def log_of(job: str, table: str) -> str:
    """Return the name of the table that notes the writes of *table*."""
    return f"{FEED}{job}__{table}"


def check_capture(job: str, tables: Mapping[str, Table]) -> None:
    """Raise `JobRefused` if the writes of a table cannot be noted."""
    problems = [f"{name}: it has no primary key" for name, table in tables.items() if not table.primary_key]
    problems += [
        f"{name}: the name of its log, {log_of(job, name)}, is too long"
        for name in tables
        if len(log_of(job, name).encode()) > LONGEST
    ]
    if "__" in job:
        problems.append("the name of a job that replicates must not have '__' in it")
    if problems:
        raise JobRefused("this cannot be replicated: " + "; ".join(problems))


def start_capture(router: Router, job: str, tables: Mapping[str, Table]) -> None:
    """Note what is written from now on. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    kinds = {
        log_of(job, name): Sharded(table.key if len(table.key) > 1 else table.key[0]) for name, table in tables.items()
    }
    change_schema(router, ";\n".join([_log_ddl(job, it) for it in tables.values()] + _triggers_ddl(job, tables)), kinds)


def stop_capture(router: Router, job: str, tables: Mapping[str, Table]) -> None:
    """Note nothing any more. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    present = [name for name in tables if log_of(job, name) in router.topology.tables]
    if not present:
        return
    trigger = quote(f"{FEED}{job}")
    statements = []
    for name in present:
        log, truncate = quote(log_of(job, name)), quote(f"{FEED}{job}__")
        statements += [f"DROP TRIGGER {trigger} ON {quote(name)}", f"DROP TRIGGER {truncate} ON {quote(name)}"]
        statements += [f"DROP TABLE {log}", f"DROP FUNCTION {log}()"]
    change_schema(router, ";\n".join([*statements, f"DROP FUNCTION {trigger}()"]), {})


def _log_ddl(job: str, table: Table) -> str:
    columns = ", ".join(f"{quote(name)} {_type(table, name)} NOT NULL" for name in table.primary_key)
    log = quote(log_of(job, table.name))
    return f"CREATE TABLE {log} ({columns}, change uuid NOT NULL, noted timestamptz NOT NULL)"


def _triggers_ddl(job: str, tables: Mapping[str, Table]) -> list[str]:
    refuse = quote(f"{FEED}{job}")
    hint = f"the table is replicated by the job {job!r}: DELETE its rows instead"
    statements = [
        f"CREATE FUNCTION {refuse}() RETURNS trigger LANGUAGE plpgsql AS "
        + literal(
            "BEGIN RAISE EXCEPTION USING errcode = 'object_in_use', "
            f"message = 'TRUNCATE cannot be replicated', hint = {literal(hint)}; END"
        )
    ]
    for name, table in tables.items():
        log, on = quote(log_of(job, name)), quote(name)
        statements += [
            f"CREATE FUNCTION {log}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            f"SET search_path TO pg_catalog, pg_temp AS {literal(_body(job, table))}",
            f"CREATE TRIGGER {refuse} AFTER INSERT OR UPDATE OR DELETE ON {on} FOR EACH ROW EXECUTE FUNCTION {log}()",
            f"CREATE TRIGGER {quote(f'{FEED}{job}__')} BEFORE TRUNCATE ON {on} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {refuse}()",
        ]
    return statements


def _body(job: str, table: Table) -> str:
    """The log is in the schema of the partition that is written, wherever that is by now."""
    keys = [quote(name) for name in table.primary_key]
    values = ", ".join(f"${at}" for at in range(1, len(keys) + 1))
    log = literal(log_of(job, table.name))
    note = (
        f"EXECUTE format('INSERT INTO %I.%I VALUES ({values}, gen_random_uuid(), clock_timestamp())', "
        f"tg_table_schema, {log}) USING "
    )
    old, new = (", ".join(f"{row}.{key}" for key in keys) for row in ("old", "new"))
    return (
        f"BEGIN IF tg_op <> 'INSERT' THEN {note}{old}; END IF; "
        f"IF tg_op = 'INSERT' OR tg_op = 'UPDATE' AND ROW({old})::record *<> ROW({new})::record THEN {note}{new}; "
        f"END IF; RETURN NULL; END"
    )


def _type(table: Table, name: str) -> str:
    column = table.column(name)
    assert column is not None
    return column.type
