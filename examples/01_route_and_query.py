"""Route statements by key, and ask all shards one question.

Starts two PostgreSQL servers from the wheel, creates a small shop in eight partitions, and shows where statements run.
"""

from shardpool import Reference, Sharded
from shardpool.local import LocalCluster

DDL = """
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
    customer_id bigint NOT NULL,
    order_id bigint NOT NULL,
    country text REFERENCES country,
    total numeric(10,2) NOT NULL,
    PRIMARY KEY (customer_id, order_id)
);
"""

with LocalCluster(shards=2, partitions=8, keyspace="shop") as cluster, cluster.router() as router:
    router.create_schema(DDL, tables={"country": Reference(), "orders": Sharded("customer_id")})
    router.copy_into("country", [("de", "Germany"), ("fr", "France")])
    router.copy_into("orders", ((n % 50, n, "de" if n % 3 else "fr", n / 4) for n in range(1000)))

    # One partition: routed by the key that is given.
    insert = "INSERT INTO orders VALUES (:customer, :order, 'de', 9.50)"
    router.execute(42, insert, {"customer": 42, "order": 5000})
    print("customer 42 lives in", router.partition_of(42).schema, "on", router.shard_of(42).name)

    # One partition: the key is found in the statement.
    print(router.explain("SELECT * FROM orders WHERE customer_id = 42").rung)

    # All partitions: each aggregates its rows, PostgreSQL merges the partial rows.
    report = """
        SELECT c.name, count(*), sum(o.total) FROM orders o JOIN country c ON c.code = o.country
        GROUP BY c.name ORDER BY 3 DESC
    """
    for row in router.query(report):
        print(row.name, row.count, row.sum)
    print(router.explain(report))
