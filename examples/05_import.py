"""Move a shop from one PostgreSQL server to a keyspace, while its application goes on writing."""

import re
import threading
from pathlib import Path

import psycopg2

from shardpool.config import schema_path
from shardpool.jobs import plan_job, run_job
from shardpool.local import LocalCluster

FILL = """
INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France');
INSERT INTO customers SELECT n, CASE n % 3 WHEN 0 THEN 'fr' ELSE 'de' END, 'name ' || n, n || '@example.org'
    FROM generate_series(1, 3000) n;
INSERT INTO orders SELECT n, k, current_date - k, 'paid', n FROM generate_series(1, 3000) n, generate_series(1, 3) k;
INSERT INTO order_items SELECT n, k, 1, 'thing', 1, n FROM generate_series(1, 3000) n, generate_series(1, 3) k;
"""


class Application(threading.Thread):
    """Writes to the old database, until that refuses."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.writes, self.refused = url, 0, ""

    def run(self) -> None:
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not self.refused:
                try:
                    key = self.writes * 37 % 3000 + 1
                    cursor.execute("UPDATE orders SET total = total + 1 WHERE customer_id = %s", (key,))
                    self.writes += 1
                except psycopg2.errors.ObjectNotInPrerequisiteState as error:
                    self.refused = str(error).splitlines()[0]
        connection.close()


with LocalCluster(shards=1) as old, LocalCluster(shards=2, partitions=8, keyspace="shop") as cluster:
    url = re.sub(r"\+\w+", "", old.url("s0"))
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(schema_path("shop.sql").read_text())
        cursor.execute(FILL)
    connection.close()
    spec = Path(__file__).with_suffix(".toml").read_text()
    Path("05_import.toml").write_text(re.sub(r'(?m)^url = ".*"', f'url = "{url}"', spec))

    with cluster.router() as router:
        plan = plan_job(router, "05_import.toml")
        for table in plan["proposal"]["tables"]:
            print(f"{table['table']}: {table['kind']} {table['key']}")
        for skew in plan["skew"]:
            print(f"{skew['table']}: the largest partition has {skew['largest'] / skew['mean']:.2f} times the mean")

        application = Application(url)
        application.start()
        result = run_job(router, "05_import.toml")
        application.join()

        print(f"{result.progress.rows:,} rows; writers waited {result.checks['pause']} s, then: {application.refused}")
        moved = router.query("SELECT sum(total) FROM orders").scalar_one()
        assert moved == 3 * 3000 * 3001 // 2 + 3 * application.writes
        print(f"{application.writes} writes during the move, all there")
