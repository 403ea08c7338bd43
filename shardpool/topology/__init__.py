"""Pure values: keys and their hash, tables, partitions and the shard map. Nothing here opens anything."""
