"""What the planner knows about functions, by name.

repeatable
    Immutable, or stable and dependent only on settings that every session pins (engines/registry.py): gives the same
    value on every shard.
set
    Repeatable likewise, but returns a set of rows.
once
    May differ from call to call or server to server: evaluated on one server only.
aggregate, window
    As PostgreSQL knows them.
server
    Tells about, or changes, one server, session or catalog; or is part of PostgreSQL's machinery.

A name in none of these, or also defined outside pg_catalog on the shards, may read anything: it is *unknown*.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

#: Functions that change or reveal the state of one pooled session or server; refused in `Router.query`.
SESSION_FUNCTIONS = frozenset(
    [
        "set_config",
        "setseed",
        "currval",
        "lastval",
        "nextval",
        "setval",
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
        "pg_advisory_unlock",
        "pg_advisory_unlock_shared",
        "pg_advisory_unlock_all",
    ]
)


@cache
def _classes() -> dict[str, frozenset[str]]:
    text = resources.files("shardpool.planner").joinpath("pg_functions.txt").read_text(encoding="utf-8")
    classes: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            current = classes.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            current.update(line.split())
    return {name: frozenset(found) for name, found in classes.items()}


def is_aggregate(name: str) -> bool:
    return name in _classes()["aggregate"]


def is_repeatable(name: str) -> bool:
    return name in _classes()["repeatable"]


def is_of_groups(name: str) -> bool:
    """Whether the function is an aggregate or a window function."""
    return name in _classes()["aggregate"] or name in _classes()["window"]


def is_set(name: str) -> bool:
    return name in _classes()["set"]


def is_known(name: str) -> bool:
    """Whether the function is PostgreSQL's own and reads no tables."""
    return any(name in names for kind, names in _classes().items() if kind != "server")


def is_of_server(name: str) -> bool:
    return name in _classes()["server"]
