"""The directory of a cluster: temporary or the user's, locked and watched as long as the cluster is open."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from shardpool.local.binaries import account_for, temporary_base
from shardpool.local.watchdog import Watchdog


class ClusterDirectory:
    """A directory with one directory per shard."""

    def __init__(self, wanted: Path | None) -> None:
        """Open `wanted`, or a new temporary directory. Raise `LocalClusterError` if another cluster has it open."""
        self.temporary = wanted is None
        if wanted is None:
            base = temporary_base(account_for(Path("/nonexistent")))
            self.path = base.resolve() / f"shardpool-cluster-{secrets.token_hex(8)}"
        else:
            self.path = wanted
            self.path.mkdir(parents=True, exist_ok=True)
        self._watchdog = Watchdog(self.path, temporary=self.temporary)
        if self.temporary:  # made only now: what a killed process leaves is always watched
            try:
                self.path.mkdir(mode=0o700)
                self.path.chmod(0o711)  # for the server's user to pass through
            except BaseException:
                self.close()
                raise

    def shards(self) -> list[str]:
        """Return the names of the shards that have data, ``s2`` before ``s10``."""
        names = [found.parent.parent.name for found in self.path.glob("*/data/PG_VERSION")]
        return sorted(names, key=lambda name: (len(name), name))

    def close(self) -> None:
        """Let go of a directory in which nothing runs any more; a temporary one is removed."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        self._watchdog.dismiss()
