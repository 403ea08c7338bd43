"""varchar(n) drops spaces beyond n: such a key would be stored as another one than was hashed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router, Sharded, parse_config
from shardpool.errors import UnsupportedStatement
from tests.support.backends import databases


@pytest.fixture
def router(server_urls: list[str]) -> Iterator[Router]:
    with databases(server_urls) as urls:
        shards = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
        config = parse_config({"keyspace": "shop", "partitions": 8, "catalog": urls[0], "shards": shards})
        Router.initialise(config)
        with Router(config) as found:
            found.create_schema("CREATE TABLE tags (tag varchar(3) PRIMARY KEY)", {"tags": Sharded("tag")})
            yield found


def test_a_key_that_would_be_cut_is_refused(router: Router) -> None:
    insert = "INSERT INTO tags VALUES (:tag)"
    for tag in ("a", "abc", "ab "):
        router.execute(tag, insert, {"tag": tag})
    with pytest.raises(UnsupportedStatement, match="SP113"):
        router.execute("abc ", insert, {"tag": "abc "})
    for tag in ("a", "abc", "ab "):
        assert router.query("SELECT count(*) FROM tags WHERE tag = :tag", {"tag": tag}).scalar_one() == 1
    assert router.query("SELECT count(*) FROM tags WHERE tag = 'abc '").scalar_one() == 0
