"""Grow from two shards to three while statements go on."""

import threading

from shardpool import Sharded
from shardpool.local import LocalCluster
from shardpool.moves import add_shard, apply_rebalance, plan_rebalance

with LocalCluster(shards=2, partitions=12, keyspace="shop") as cluster, cluster.router() as router:
    router.create_schema(
        "CREATE TABLE visits (visitor bigint PRIMARY KEY, seen int NOT NULL)", tables={"visits": Sharded("visitor")}
    )
    router.copy_into("visits", ((visitor, 0) for visitor in range(6000)))

    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            visitor = len(written) * 37 % 6000
            router.execute(visitor, "UPDATE visits SET seen = seen + 1 WHERE visitor = :v", {"v": visitor})
            written.append(visitor)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        add_shard(router, "s2", cluster.url(cluster.add_shard("s2")))
        plan = plan_rebalance(router, by="count")
        print(plan)
        apply_rebalance(router, plan)
    finally:
        stop.set()
        writer.join()

    for name, partitions in router.shard_map.by_shard().items():
        print(name, [partition.id for partition in partitions])
    assert router.query("SELECT sum(seen) FROM visits").scalar_one() == len(written)
    print(f"{len(written)} writes while partitions moved, none lost")
