"""The fault points under the name by which moves know them."""

from shardpool.faults import fault_point

__all__ = ["fault_point"]
