"""The configuration: a ``cluster.toml`` is parsed, validated by ``schemas/cluster.schema.json``, and then frozen.

Passwords are held apart from the URLs, in objects that do not print them; they come from the URL, from the variable
that ``password_env`` names, from libpq's own sources (``PGPASSWORD``, ``~/.pgpass``) or from the callable that is given
to `Router`. They are never written to the catalog.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonschema
import psycopg2.extensions
from jsonschema.exceptions import best_match
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from shardpool.errors import ConfigError
from shardpool.topology.names import check_identifier, check_keyspace_name
from shardpool.topology.tables import Reference, Sharded, TableKind

#: libpq knows the first since version 14; the second also refuses databases that are read-only by default.
_PRIMARY = "primary" if psycopg2.extensions.libpq_version() >= 140000 else "read-write"


#: Given a shard's name, or `CATALOG` for a catalog that is in no shard's database, returns the password. Called at
#: every new connection, so that passwords may rotate.
PasswordSource = Callable[[str], str]
CATALOG = "catalog"


@dataclass(frozen=True)
class Secret:
    """A password that does not show itself."""

    value: str = field(repr=False)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True)
class Endpoint:
    """Where a database is. `url` has no password and may be stored and printed; `password` may not. With `primary`, a
    server that is a standby is refused: after a failover its rows would be old ones, and nothing would tell."""

    url: str
    password: Secret | None = None
    primary: bool = True

    def full_url(self) -> URL:
        """Return the URL to connect with, password included. Printed by `str()`, SQLAlchemy shows it as ``***``."""
        url = make_url(self.url)
        return url.set(password=self.password.value) if self.password else url

    def link(self, connect_timeout: int) -> dict[str, Any]:
        """Return libpq's parameters of the connection itself: a server that vanishes is noticed within a minute."""
        return {
            "client_encoding": "utf8",
            "connect_timeout": connect_timeout,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            "target_session_attrs": _PRIMARY if self.primary else "any",
        }


@dataclass(frozen=True)
class PoolConfig:
    """Limits of the pool of one shard. Sizes in connections, times in seconds."""

    min_size: int = 1
    max_size: int = 10
    timeout: float = 30.0
    connect_timeout: int = 10
    idle_timeout: float = 60.0
    max_age: float = 3600.0
    statement_timeout: float = 0.0
    #: So many statements a session keeps prepared; each takes some 12 kB of the server's memory.
    prepared: int = 250


@dataclass(frozen=True)
class QueryConfig:
    """Limits of `Router.query`. `merge_node` is the shard that runs merge queries; by default one that has the data."""

    max_gather_bytes: int = 1 << 30
    merge_node: str | None = None


@dataclass(frozen=True)
class MoveConfig:
    """Limits of moves, in seconds. A cutover that makes writers wait longer than `cutover_timeout` is undone and tried
    again, for `patience` altogether; then the move is given up. Copying goes at `max_rate` bytes per second at most,
    and is held back while a commit takes longer than `max_latency` or a replica is more than `max_lag` behind; 0 is no
    limit. Moves work for `share` of the time, at most 1, and rest in between; "auto" is all the time while nobody else
    works on their servers, and a sixteenth of it else. Nobody rests while writers wait."""

    cutover_timeout: float = 3.0
    patience: float = 300.0
    max_rate: int = 0
    max_latency: float = 0.0
    max_lag: float = 0.0
    share: float | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Config:
    """A validated configuration; see `parse_config`. `password` is the callable that was given to `Router`, if any: it
    goes along to the processes of jobs and moves, which need it to be a function of a module."""

    source: str
    keyspace: str
    partitions: int
    catalog: Endpoint
    shards: Mapping[str, Endpoint]
    timezone: str = "UTC"
    pool: PoolConfig = PoolConfig()
    query: QueryConfig = QueryConfig()
    moves: MoveConfig = MoveConfig()
    tables: Mapping[str, TableKind] = field(default_factory=dict)
    password: PasswordSource | None = field(default=None, repr=False, compare=False)


def catalog_password(config: Config) -> Callable[[], str] | None:
    """Return the callable for the catalog's password: that of the shard in whose database it is, or of its own."""
    password = config.password
    if password is None:
        return None
    place = next((name for name, it in config.shards.items() if it.url == config.catalog.url), CATALOG)
    return lambda: password(place)


def schema_path(name: str) -> Path:
    """Return the path of a published schema: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "schemas" / name
    return installed if installed.exists() else package.parent / "schemas" / name


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read a ``cluster.toml``. Raise `ConfigError` for a file that is missing, not TOML, or not valid."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), "file", error.strerror or str(error), "a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "file", str(error), "TOML in UTF-8") from error
    return parse_config(document, source=str(path))


def parse_config(document: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a document in the shape of ``cluster.toml`` and freeze it. Raise `ConfigError`."""
    validate_document(document, source, "cluster.schema.json")
    shards = {
        name: parse_endpoint(entry["url"], source, f"shards.{name}", entry.get("password_env"))
        for name, entry in document["shards"].items()
    }
    config = Config(
        source=source,
        keyspace=document["keyspace"],
        partitions=document["partitions"],
        catalog=_catalog_endpoint(document["catalog"], shards, source),
        shards=shards,
        timezone=document.get("timezone", "UTC"),
        pool=PoolConfig(**document.get("pool", {})),
        query=QueryConfig(**document.get("query", {})),
        moves=MoveConfig(**document.get("moves", {})),
        tables={name: _table(name, entry, source) for name, entry in document.get("tables", {}).items()},
    )
    _check(config)
    return config


def validate_document(document: Mapping[str, Any], source: str, schema_name: str) -> None:
    """Check a document against a published schema. Raise `ConfigError` for the most telling fault."""
    schema = json.loads(schema_path(schema_name).read_text(encoding="utf-8"))
    error = best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if error is None:
        return
    key = ".".join(str(part) for part in error.absolute_path) or "(top level)"
    got = _without_password(error.instance) if isinstance(error.instance, str) else error.instance
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        got = sorted(set(error.instance) - set(known))
        raise ConfigError(source, key, got, "only the keys " + ", ".join(known))
    if error.validator == "required":
        missing = [name for name in error.schema["required"] if name not in error.instance]
        raise ConfigError(source, key, sorted(error.instance), "also " + ", ".join(missing))
    if isinstance(got, dict | list):
        got = type(got).__name__
    raise ConfigError(source, key, got, error.schema.get("description") or str(error.validator_value))


def _check(config: Config) -> None:
    try:
        check_keyspace_name(config.keyspace)
    except ValueError:
        expected = "a name other than public, shardpool_catalog and pg_*"
        raise ConfigError(config.source, "keyspace", config.keyspace, expected) from None
    pool = config.pool
    if pool.min_size > pool.max_size:
        raise ConfigError(config.source, "pool.min_size", pool.min_size, f"at most max_size ({pool.max_size})")
    node = config.query.merge_node
    if node is not None and node not in config.shards:
        raise ConfigError(config.source, "query.merge_node", node, "one of " + ", ".join(config.shards))
    seen: dict[tuple[object, ...], str] = {}
    for name, endpoint in config.shards.items():
        url = make_url(endpoint.url)
        place = (url.host, url.port, url.database, tuple(sorted(url.query.items())))
        if place in seen:
            expected = f"a database that no other shard uses (shards.{seen[place]} has the same URL)"
            raise ConfigError(config.source, f"shards.{name}.url", endpoint.url, expected)
        seen[place] = name


def parse_endpoint(text: str, source: str, key: str, password_env: str | None = None) -> Endpoint:
    """Split a URL into what may be stored and shown, and its password. Raise `ConfigError`, which shows no password."""
    try:
        url = make_url(text)
        password = url.password
        clean = url.set(drivername="postgresql+psycopg2", password=None) if password is None else _drop_password(url)
        stored = clean.render_as_string(hide_password=False)
    except (ArgumentError, ValueError):
        raise ConfigError(source, f"{key}.url", _without_password(text), "a valid database URL") from None
    secret = [name for name in url.query if "password" in name]
    if secret:
        expected = "the password before the @, or password_env"
        raise ConfigError(source, f"{key}.url", f"a parameter {secret[0]}", expected)
    if not url.database:
        raise ConfigError(source, f"{key}.url", stored, "a URL with a database name")
    if password_env is not None:
        password = os.environ.get(password_env)
        if password is None:
            raise ConfigError(source, f"{key}.password_env", password_env, "the name of a variable that is set")
    return Endpoint(stored, Secret(str(password)) if password is not None else None)


def _drop_password(url: URL) -> URL:
    return URL.create("postgresql+psycopg2", url.username, None, url.host, url.port, url.database, url.query)


def _catalog_endpoint(text: str, shards: Mapping[str, Endpoint], source: str) -> Endpoint:
    """The catalog may be one of the shards: then that shard's password serves it too."""
    endpoint = parse_endpoint(text, source, "catalog")
    same = next((shard for shard in shards.values() if shard.url == endpoint.url), endpoint)
    return endpoint if endpoint.password else same


def _without_password(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    user, at, host = rest.rpartition("@")
    return scheme + separator + user.partition(":")[0] + at + host


def _table(name: str, entry: Mapping[str, Any], source: str) -> TableKind:
    if "reference" in entry:
        return Reference()
    key, unique = entry["key"], entry.get("unique", {})
    columns = [key] if isinstance(key, str) else key
    try:
        for identifier in (name, *columns, *unique, *unique.values()):
            check_identifier(identifier)
    except ValueError as error:
        raise ConfigError(source, f"tables.{name}", entry, f"valid names ({error})") from None
    return Sharded(key if isinstance(key, str) else tuple(key), unique)
