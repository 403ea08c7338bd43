"""The job ``anonymise``: a copy of a keyspace without what is personal, as another keyspace or as files."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shardpool.bulk.chunk import Opened, Sink
from shardpool.bulk.file_sink import csv_sink
from shardpool.bulk.journal import JobJournal
from shardpool.bulk.keyspace_sink import KeyspaceSink
from shardpool.bulk.keyspace_source import KeyspaceSource
from shardpool.config import Config, read_config
from shardpool.errors import JobRefused
from shardpool.jobs.anonymise.back import check_unwritten, come_back, find_back
from shardpool.jobs.anonymise.compile import compile_rules
from shardpool.jobs.anonymise.coverage import Covered, coverage
from shardpool.jobs.anonymise.decisions import decide
from shardpool.jobs.anonymise.privacy import check_columns, check_privacy
from shardpool.jobs.anonymise.secret import Keyed, read_secret
from shardpool.jobs.anonymise.transform import Anonymise
from shardpool.jobs.constraints import Constraints, read_constraints, self_referring, stages
from shardpool.jobs.copy_schema import check_empty, copy_schema, own_tables
from shardpool.jobs.kind import Prepared
from shardpool.jobs.spec import JobSpec, digest_of
from shardpool.router import Router


@dataclass(frozen=True)
class AnonymiseWork:
    """What another process needs. The secret is not in it: it comes from that process's own environment."""

    token: str
    source: Config
    target: Config | None
    directory: Path
    document: Mapping[str, Any]
    constraints: Constraints
    fingerprint: str

    @contextmanager
    def open(self) -> Iterator[Opened]:
        keyed = read_secret(self.document["secret"]["env"])
        if _fingerprint(keyed, self.document["name"]) != self.fingerprint:
            raise JobRefused("this worker's environment has another secret than the job was started with")
        with ExitStack() as stack:
            source = stack.enter_context(Router(self.source, listen=False))
            target = stack.enter_context(Router(self.target, listen=False)) if self.target else None
            yield self.ends(source, target, keyed)

    def ends(self, source: Router, target: Router | None, keyed: Keyed) -> Opened:
        """Return the ends over routers that are open."""
        tables = own_tables(source.topology.tables)
        decisions = decide(self.document, tables, self.constraints)
        rules = compile_rules(decisions, tables, keyed, self.document.get("locale", "en_US"))
        order = stages(rules, self.constraints.foreign_keys)
        reader = KeyspaceSource(source, order, self_referring(self.constraints.foreign_keys))
        sink: Sink = csv_sink(self.directory, source.catalog) if target is None else KeyspaceSink(target)

        def refresh() -> None:
            source.refresh()
            if target is not None:
                target.refresh()

        return Opened(reader, sink, Anonymise(rules), refresh)


@contextmanager
def prepare(router: Router, spec: JobSpec, dry: bool) -> Iterator[Prepared]:
    """Check a spec against the tables and make the job ready; if *dry*, only to be looked at."""
    document = spec.document
    reserved = sorted(router.topology.reservations)
    if reserved and "config" in document["to"]:
        raise JobRefused(
            f"{', '.join(reserved)} hold reservations of unique columns, which rows with other values would not agree "
            "with: export the tables instead, and load them into a keyspace without"
        )
    keyed = read_secret(document["secret"]["env"])
    constraints = read_constraints(router)
    decisions = decide(document, own_tables(router.topology.tables), constraints)
    wishes = document.get("privacy", [])
    check_columns(wishes, router.topology.tables)
    to = document["to"]
    if wishes and "config" not in to:
        raise JobRefused("[[privacy]] is measured in a keyspace: files cannot be asked (to.config)")
    target_config = _target_config(router, spec) if "config" in to else None
    in_place = to.get("in_place", False)
    if in_place and document.get("skip_tables"):
        raise JobRefused("skip_tables would leave tables as they are: in place (to.in_place) all are changed")
    directory = spec.path(to.get("directory", "."))
    print_of_secret = _fingerprint(keyed, spec.name)
    work = AnonymiseWork(
        uuid.uuid4().hex, router.config, target_config, directory, document, constraints, print_of_secret
    )
    with ExitStack() as stack:
        target = None
        if target_config is not None and not dry:
            Router.initialise(target_config)
            target = stack.enter_context(Router(target_config, listen=False))
        taken = sorted({decision.table for decision in decisions.values()})

        def check_new() -> None:
            if target is not None:
                copy_schema(router, target)
                check_empty(target, taken)
            elif directory.exists() and any(directory.iterdir()):
                raise JobRefused(f"{directory} is not empty: take a new directory")

        def verify() -> Mapping[str, Any]:
            if target is None:
                return {}
            journal = JobJournal(router.catalog)
            job = journal.find(spec.name)
            if in_place and job is not None and find_back(journal, job) is not None:
                return bring_back()
            privacy = {"privacy": check_privacy(target, wishes)}
            if in_place:
                check_unwritten(router, spec, taken)
                bring_back()
            return privacy

        def bring_back() -> Mapping[str, Any]:
            assert target is not None
            keys = constraints.foreign_keys
            come_back(router, target, spec, stages(taken, keys), self_referring(keys))
            return {}

        tables = sorted((name, repr(router.topology.tables[name])) for name in taken)
        yield Prepared(
            work=work,
            opened=work.ends(router, target, keyed),
            digest=digest_of(spec, tables, print_of_secret),
            plan={"columns": [asdict(it) for it in coverage(router, decisions)]},
            check_new=check_new,
            verify=verify,
        )


def coverage_of(router: Router, spec: JobSpec) -> list[Covered]:
    """Return the coverage report of a spec that leaves columns open: those are listed with the rule 'none'."""
    open_spec = {**spec.document, "undecided": "keep"}
    constraints = read_constraints(router)
    return coverage(router, decide(open_spec, own_tables(router.topology.tables), constraints))


def _target_config(router: Router, spec: JobSpec) -> Config:
    config = read_config(spec.path(spec.document["to"]["config"]))
    if (config.catalog.url, config.keyspace) == (router.config.catalog.url, router.config.keyspace):
        raise JobRefused("to.config is the keyspace that is read: the copy must be another one")
    return config


def _fingerprint(keyed: Keyed, name: str) -> str:
    """Return what tells secrets apart, and nothing else. It stays with the source."""
    return keyed.domain(f"fingerprint of job {name}").digest(b"").hex()[:32]
