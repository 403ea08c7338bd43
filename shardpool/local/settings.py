"""The ``postgresql.conf`` and ``pg_hba.conf`` of a local server. They are written anew at each start.

Data on a disk that should survive gets PostgreSQL's durable defaults; `THROWAWAY` is for data that nobody will miss.
full_page_writes stays on even there: a page of 8 kB can be torn when SIGKILL hits the write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

Value = str | int | float | bool
Settings = Mapping[str, Value]

DEFAULTS: Settings = {
    "wal_level": "logical",
    "max_connections": 200,
    "max_prepared_transactions": 100,
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: a killed server leaves nothing in /dev/shm
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # the reasons of a failed start are read from the log
    "default_text_search_config": "pg_catalog.english",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
THROWAWAY: Settings = {"fsync": False}
FIXED = ("listen_addresses", "port", "unix_socket_directories")

HBA = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"


def check_settings(settings: Settings) -> Settings:
    """Return a copy. Raise ValueError for what is no parameter's name, or is set by the local server itself."""
    for name in settings:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?", name):
            raise ValueError(f"{name!r} is not the name of a PostgreSQL parameter")
        if name.lower() in FIXED:
            raise ValueError(f"{name} is set by the local server itself")
    return dict(settings)


def write_settings(data: Path, port: int, settings: Settings) -> None:
    """Write the configuration files of the server in `data`."""
    merged = {**DEFAULTS, **settings, "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
    lines = "".join(f"{name} = {_quoted(value)}\n" for name, value in merged.items())
    (data / "postgresql.conf").write_text("# written by shardpool.local at each start\n" + lines)
    (data / "pg_hba.conf").write_text(HBA)


def _quoted(value: Value) -> str:
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    if "\n" in text or "\0" in text:
        raise ValueError(f"a PostgreSQL setting has one line: {text!r}")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
