"""The error of the embedded cluster."""

from shardpool.errors import ShardpoolError


class LocalClusterError(ShardpoolError, RuntimeError):
    """A local server or cluster cannot do what was asked; for a failed server with the last lines of its log."""
