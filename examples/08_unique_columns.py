"""A column that is unique over all partitions, though it is not the partition key.

A second table, sharded by that column, reserves its values: it is written along with every row, in one transaction,
and says where the row of a value is.
"""

from sqlalchemy.exc import IntegrityError

from shardpool import Sharded
from shardpool.local import LocalCluster

DDL = """
CREATE TABLE users (user_id bigint PRIMARY KEY, email text, points int NOT NULL DEFAULT 0);
CREATE TABLE emails (email text PRIMARY KEY, user_id bigint NOT NULL);
"""

with LocalCluster(shards=2, partitions=8, keyspace="club") as cluster, cluster.router() as router:
    tables = {"users": Sharded("user_id", unique={"email": "emails"}), "emails": Sharded("email")}
    router.create_schema(DDL, tables)
    router.query("INSERT INTO users (user_id, email) VALUES (1, 'ann@example.org'), (2, 'bob@example.org'), (3, NULL)")

    try:
        router.query("INSERT INTO users (user_id, email) VALUES (99, 'bob@example.org')")
    except IntegrityError as error:
        print("refused:", str(error.orig).splitlines()[0])

    router.query("UPDATE users SET email = 'ann@example.com' WHERE user_id = 1")
    user = router.find_key("users", email="ann@example.com")  # one round trip, to the partition of the e-mail
    print("found:", router.execute(user, "SELECT user_id, email FROM users WHERE user_id = :id", {"id": user}).one())
    print("free again:", router.find_key("users", email="ann@example.org"))
