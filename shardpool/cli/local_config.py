"""The ``cluster.toml`` of a local cluster: written once, then the user's; only addresses are brought up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shardpool.config import Config, read_config

if TYPE_CHECKING:
    from shardpool.local import LocalCluster


def read_local_config(path: Path) -> Config | None:
    """Return the configuration of an earlier run, if there is one. Raise `ConfigError` for one that is not valid."""
    return read_config(path) if path.exists() else None


def write_local_config(cluster: LocalCluster, path: Path, known: Config | None) -> Config:
    """Write the file, or put the servers' present URLs into the one of an earlier run, and read it."""
    if known is None:
        cluster.write_config(path)
        return read_config(path)
    text = path.read_text(encoding="utf-8")
    # In two steps: a server may have got the port that another one had.
    urls = {endpoint.url: name for name, endpoint in known.shards.items() if name in cluster.names}
    for number, url in enumerate(urls):
        text = text.replace(f'"{url}"', f'"\0{number}"')
    for number, name in enumerate(urls.values()):
        text = text.replace(f'"\0{number}"', f'"{cluster.url(name)}"')
    for name in cluster.names:
        if name not in known.shards:
            text += f'\n[shards.{name}]\nurl = "{cluster.url(name)}"\n'
    path.write_text(text, encoding="utf-8")
    return read_config(path)
