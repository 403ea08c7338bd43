"""Identifiers: quoting, and the names that shardpool derives from a keyspace's name."""

from __future__ import annotations

import re

#: PostgreSQL truncates longer identifiers silently (NAMEDATALEN - 1); shardpool refuses them instead.
MAX_IDENTIFIER_BYTES = 63

_KEYSPACE = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_identifier(name: str) -> str:
    """Return *name* if PostgreSQL can hold it unchanged. Raise `ValueError` otherwise."""
    if not name:
        raise ValueError("an identifier must not be empty")
    if "\0" in name:
        raise ValueError(f"identifier {name!r} contains a NUL character")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"identifier {name!r} is not valid Unicode") from error
    if size > MAX_IDENTIFIER_BYTES:
        raise ValueError(f"identifier {name!r} has {size} bytes, PostgreSQL keeps {MAX_IDENTIFIER_BYTES}")
    return name


def quote(name: str) -> str:
    """Return *name* as a quoted SQL identifier. Raise `ValueError` for what PostgreSQL cannot hold."""
    return '"' + check_identifier(name).replace('"', '""') + '"'


def unquote(name: str) -> str:
    """Return the name that an SQL identifier stands for, as `quote` or the server's quote_ident wrote it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def literal(value: str) -> str:
    """Return *value* as a SQL string literal, for utility statements that take no parameters."""
    if "\0" in value:
        raise ValueError("a string literal cannot contain a NUL character")
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def check_keyspace_name(name: str) -> str:
    """Return *name* if it can name a keyspace: lower case letters, digits, underscores, at most 40 characters."""
    if not _KEYSPACE.fullmatch(name) or name.startswith("pg_") or name in ("public", "shardpool_catalog"):
        raise ValueError(f"{name!r} cannot name a keyspace")
    return name


def partition_schema(keyspace: str, partition: int) -> str:
    """Return the schema that holds a partition: ``shop_p0017``."""
    return f"{keyspace}_p{partition:04d}"
