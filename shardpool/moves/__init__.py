from shardpool.moves.partition import move_partition

__all__ = ["move_partition"]
