"""The ``cluster.toml`` of a local cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def document(keyspace: str, partitions: int, urls: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration for these shards in the shape of ``cluster.toml``; the first holds the catalog."""
    return {
        "keyspace": keyspace,
        "partitions": partitions,
        "catalog": next(iter(urls.values())),
        "shards": {name: {"url": url} for name, url in urls.items()},
    }


def to_toml(config: Mapping[str, Any]) -> str:
    """Return a `document` as TOML."""
    lines = [f"{key} = {_value(value)}" for key, value in config.items() if key != "shards"]
    for name, shard in config["shards"].items():
        lines += ["", f"[shards.{_value(name)}]", *(f"{key} = {_value(value)}" for key, value in shard.items())]
    return "\n".join(lines) + "\n"


def _value(value: str | int) -> str:
    # JSON's escapes are TOML's too, except that TOML also wants U+007F escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
