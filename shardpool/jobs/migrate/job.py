"""The job ``import``: an unsharded PostgreSQL database moves into the keyspace, while it is written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import make_url

from shardpool.bulk.chunk import Opened
from shardpool.bulk.database_source import DATABASE, DatabaseSource, database_config
from shardpool.bulk.keyspace_sink import KeyspaceSink
from shardpool.bulk.runner import PauseJob
from shardpool.config import Config, parse_endpoint
from shardpool.ddl.introspect import read_tables
from shardpool.engines import Engines
from shardpool.errors import ConfigError, JobRefused, SchemaError
from shardpool.faults import fault_point
from shardpool.jobs.constraints import stages
from shardpool.jobs.copy_schema import check_empty
from shardpool.jobs.following import change_schema
from shardpool.jobs.kind import Prepared
from shardpool.jobs.migrate.capture import start_capture, stop_capture
from shardpool.jobs.migrate.finish import Ends, catch_up, switch_back, switch_over, switched, verify, verify_frozen
from shardpool.jobs.migrate.propose import obstacles_of, propose
from shardpool.jobs.migrate.query_log import judge_log
from shardpool.jobs.migrate.schema import foreign_keys_ddl, indexes_ddl, primary_keys_ddl, tables_ddl
from shardpool.jobs.migrate.skew import measure_skew
from shardpool.jobs.migrate.survey import Survey, survey
from shardpool.jobs.migrate.way_back import (
    close_way_back,
    go_back,
    has_way_back,
    keep_way_back,
    lift_fence,
    sharded,
)
from shardpool.jobs.replicate.capture import check_capture
from shardpool.jobs.spec import JobSpec, digest_of
from shardpool.router import Router
from shardpool.topology.tables import Reference, Sharded, Table, TableKind


@dataclass(frozen=True)
class ImportWork:
    """What another process needs."""

    token: str
    source: Config
    target: Config
    tables: Mapping[str, Table]
    #: Their partition keys; none for reference tables.
    keys: Mapping[str, Sequence[str]]

    @contextmanager
    def open(self) -> Iterator[Opened]:
        engines = Engines(self.source)
        try:
            with Router(self.target, listen=False) as router:
                yield self.ends(engines, router)
        finally:
            engines.close()

    def ends(self, engines: Engines, router: Router) -> Opened:
        source = DatabaseSource(engines, self.tables, dict.fromkeys(self.tables, 0), self.keys)
        return Opened(source, KeyspaceSink(router), refresh=router.refresh)


@contextmanager
def prepare(router: Router, spec: JobSpec, dry: bool) -> Iterator[Prepared]:
    """Survey the database, check the spec against it, and make the job ready."""
    document = spec.document
    where, run = document["from"], document.get("run", {})
    if make_url(where["url"]).password is not None:
        # The catalog keeps the spec.
        raise ConfigError(spec.source, "from.url", "a password", "a URL without one, and password_env or ~/.pgpass")
    endpoint = parse_endpoint(where["url"], spec.source, "from", where.get("password_env"))
    config = database_config(
        endpoint, where.get("schema", "public"), router.config.timezone, spec.options(router).workers + 2
    )
    engines = Engines(config)
    try:
        with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
            found = survey(cursor, config.keyspace)
            kinds, frozen = _kinds(document, found, dry), bool(where.get("frozen", False))
            problems = _problems(found, kinds, frozen)
            if not problems:
                problems = _refused(cursor, config.keyspace, kinds)
        if problems and not dry:
            raise JobRefused("the database cannot be moved in like this: " + "; ".join(problems))
        tables = {name: found.tables[name] for name in kinds}
        keys = {name: kind.columns if isinstance(kind, Sharded) else () for name, kind in kinds.items()}
        work = ImportWork(uuid.uuid4().hex, config, router.config, tables, keys)
        ends = Ends(engines, config.keyspace, tables, router)
        keep = bool(run.get("way_back", False))
        order = stages(tables, found.promises.foreign_keys) if keep else {}
        if keep and frozen:
            raise JobRefused("run.way_back is for databases that are switched over, not for frozen ones")

        def check_new() -> None:
            change_schema(router, tables_ddl(found, kinds), kinds)
            check_empty(router, sorted(kinds))
            if keep:
                check_capture(
                    spec.name, {name: tables[name] for name, kind in kinds.items() if isinstance(kind, Sharded)}
                )
                lift_fence(router, spec.name, list(sharded(ends, order)))
            if not frozen:
                with engines.borrow(DATABASE) as connection:
                    start_capture(connection, tables)

        def finish() -> Mapping[str, Any]:
            pause = 0.0
            without = [name for name in kinds if not router.topology.tables[name].primary_key]

            def add_primary_keys() -> None:
                change_schema(router, primary_keys_ddl(found, without), {})

            if frozen:
                digests = verify_frozen(ends, add_primary_keys)
            elif not switched(ends):
                add_primary_keys()
                catch_up(ends)
                digests = verify(ends)
                change_schema(router, indexes_ddl(found, kinds), {})
                if run.get("cutover", "now") == "later":
                    raise PauseJob
                if keep:
                    keep_way_back(ends, spec.name, order)
                catch_up(ends)
                pause = switch_over(ends)
                fault_point("switched")
            else:
                digests = {}
            change_schema(router, f"{indexes_ddl(found, kinds)};\n{foreign_keys_ddl(found, kinds)}", {})
            return {"verified_rows": {name: rows for name, (rows, _) in digests.items()}, "pause": round(pause, 3)}

        def abandon() -> None:
            if not frozen and switched(ends):
                raise JobRefused("the tables have moved already: resume the job, which is nearly done")
            with engines.borrow(DATABASE) as connection:
                stop_capture(connection, tables)

        def undo() -> Mapping[str, Any]:
            if keep and has_way_back(ends, spec.name) and switched(ends):
                same: Mapping[str, Any] = go_back(ends, spec.name, order, found, spec.options(router))
            else:
                same = switch_back(ends)
            return {"verified_rows": {name: rows for name, (rows, _) in same.items()}}

        facts = sorted((name, repr(tables[name]), repr(kinds[name])) for name in kinds)
        yield Prepared(
            work=work,
            opened=work.ends(engines, router),
            digest=digest_of(spec, facts),
            plan={**_plan(engines, found, kinds, router, spec), "problems": problems} if dry else {},
            check_new=check_new,
            verify=finish,
            abandon=abandon,
            undo=undo,
            close=(lambda: close_way_back(ends, spec.name)) if keep else None,
        )
    finally:
        engines.close()


def _kinds(document: Mapping[str, Any], found: Survey, dry: bool) -> dict[str, TableKind]:
    """Return what the spec says about each table; in a dry run, completed by the proposal. Raise `JobRefused`."""
    kinds: dict[str, TableKind] = {}
    given = document.get("tables", {})
    unknown = sorted(set(given) - set(found.tables))
    if unknown:
        raise JobRefused(f"[tables] names {', '.join(unknown)}, which the database does not have")
    for name, entry in given.items():
        if "key" in entry:
            kinds[name] = Sharded(entry["key"] if isinstance(entry["key"], str) else tuple(entry["key"]))
        elif entry.get("reference"):
            kinds[name] = Reference()
    missing = sorted(set(found.tables) - set(given))
    if missing and not dry:
        raise JobRefused(
            f"[tables] says nothing about {', '.join(missing)}: give a key, reference = true or skip = true "
            "(--dry-run proposes something)"
        )
    for name, proposal in propose(found, {name: kinds.get(name) for name in given}).tables.items():
        if name in missing and proposal.kind != "undecided":
            kinds[name] = Sharded(proposal.key) if proposal.kind == "sharded" else Reference()
    return kinds


def _problems(found: Survey, kinds: Mapping[str, TableKind], frozen: bool) -> list[str]:
    """Return what stands in the way of moving in like this."""
    keys = {name: kind.columns[0] for name, kind in kinds.items() if isinstance(kind, Sharded)}
    problems = []
    for name, kind in kinds.items():
        table = found.tables[name]
        if isinstance(kind, Sharded):
            for column in kind.columns:
                problems += [f"{name}: {it}" for it in obstacles_of(found, table, column, {**keys, name: column})]
        if not table.primary_key and not frozen:
            problems.append(f"{name}: it has no primary key, so its changes cannot be followed (from.frozen = true)")
        if name in found.related and not frozen:
            problems.append(
                f"{name}: it is written by way of other tables, too (inheritance, or a partitioned table), so its "
                "changes cannot be followed (from.frozen = true)"
            )
    for reference in found.promises.foreign_keys:
        if reference.table in kinds and reference.parent not in kinds:
            problems.append(f"{reference.table}: it refers to {reference.parent}, which is skipped")
        if reference.table in kinds and reference.table not in keys and reference.parent in keys:
            problems.append(
                f"{reference.table}: a reference table cannot refer to {reference.parent}, which is sharded"
            )
    return list(dict.fromkeys(problems))


def _plan(
    engines: Engines, found: Survey, kinds: Mapping[str, TableKind], router: Router, spec: JobSpec
) -> Mapping[str, Any]:
    skews = []
    for name, kind in kinds.items():
        column = found.tables[name].column(kind.columns[0]) if isinstance(kind, Sharded) else None
        if column is not None and isinstance(kind, Sharded) and len(kind.columns) == 1:
            with engines.borrow(DATABASE) as connection:
                shard_map = router.topology.shard_map
                skews.append(asdict(measure_skew(connection, name, column.name, column.type, shard_map)))
    notes = [_counted(found, *column) for column in found.counted]
    proposal = propose(found, {name: kinds.get(name) for name in spec.document.get("tables", {})})
    plan: dict[str, Any] = {"proposal": proposal.to_json(), "skew": skews, "notes": sorted(notes)}
    if "query_log" in spec.document["from"]:
        path = spec.path(spec.document["from"]["query_log"])
        plan["query_log"] = asdict(judge_log(path, found.tables, kinds, router.topology.shard_map))
    return plan


def _refused(cursor: Any, keyspace: str, kinds: Mapping[str, TableKind]) -> list[str]:
    """Return what else a keyspace would refuse of the tables, if only after the copy."""
    try:
        read_tables(cursor, keyspace, kinds)
    except SchemaError as error:
        return [str(error)]
    return []


def _counted(found: Survey, table: str, name: str) -> str:
    column = found.tables[table].column(name)
    told = f"{table}.{name} counts by itself: ids must come from the application"
    if column is None or column.type == "bigint":
        return told
    return f"{told}; those of router.next_id() are bigint, this is {column.type}: change its type before the import"
