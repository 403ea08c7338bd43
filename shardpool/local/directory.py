"""The directory of a cluster: temporary or the user's, locked and watched as long as the cluster is open."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from shardpool.local.binaries import account_for, temporary_base
from shardpool.local.watchdog import Watchdog


class ClusterDirectory:
    """A directory with one directory per shard."""

    def __init__(self, wanted: Path | None) -> None:
        """Open `wanted`, or a new temporary directory. Raise `LocalClusterError` if another cluster has it open."""
        self.temporary = wanted is None
        self.path = _new_temporary() if wanted is None else wanted
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._watchdog = Watchdog(self.path, temporary=self.temporary)
        except BaseException:
            self._remove_if_temporary()
            raise

    def shards(self) -> list[str]:
        """Return the names of the shards that have data, ``s2`` before ``s10``."""
        names = [found.parent.parent.name for found in self.path.glob("*/data/PG_VERSION")]
        return sorted(names, key=lambda name: (len(name), name))

    def close(self) -> None:
        """Let go of a directory in which nothing runs any more; a temporary one is removed."""
        self._remove_if_temporary()
        self._watchdog.dismiss()

    def _remove_if_temporary(self) -> None:
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def _new_temporary() -> Path:
    account = account_for(Path("/nonexistent"))
    path = Path(tempfile.mkdtemp(prefix="shardpool-", dir=temporary_base(account))).resolve()
    if account is not None:
        path.chmod(0o711)  # for the server's user to pass through
    return path
