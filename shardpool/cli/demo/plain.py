"""One plain PostgreSQL with the same rows: what every answer of the cluster is compared with."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2
from psycopg2.extras import execute_values
from sqlalchemy import URL, make_url

from shardpool.local import LocalCluster

#: Bytes of one COPY.
PIECE = 1 << 22


class PlainPostgres:
    """A single server without shardpool: a context manager."""

    def __init__(self) -> None:
        self._cluster = LocalCluster(shards=1, partitions=1)
        self._connection: Any = None

    def __enter__(self) -> Self:
        self._cluster.start()
        url: URL = make_url(self._cluster.url("s0"))
        self._connection = psycopg2.connect(
            host=url.host, port=url.port, user=url.username, dbname=url.database, options="-c TimeZone=UTC"
        )
        self._connection.autocommit = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self._cluster.close()

    def execute(self, script: str, values: Mapping[str, Any] | None = None) -> None:
        """Run a script, or a statement with parameters; rows are fetched and dropped."""
        with self._connection.cursor() as cursor:
            cursor.execute(script, values)
            if cursor.description:
                cursor.fetchall()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def copy(self, table: str, file: Path) -> None:
        """Load a file by plain COPY. dbgen's lines end with a delimiter, which COPY does not take.

        From memory, piece by piece: an interrupt while psycopg2 reads from Python would end as an error of COPY.
        """
        with file.open("rb") as source, self._connection.cursor() as cursor:
            while lines := source.readlines(PIECE):
                piece = io.BytesIO(b"".join(line.replace(b"|\n", b"\n") for line in lines))
                cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv, DELIMITER '|')", piece)

    def insert_orders(self, rows: Iterable[tuple[Any, ...]]) -> None:
        with self._connection.cursor() as cursor:
            execute_values(cursor, "INSERT INTO orders VALUES %s", list(rows))

    def raise_prices(self, times: Mapping[int, int]) -> None:
        """Add 1 to an order's price, as often as *times* says."""
        statement = (
            "UPDATE orders SET o_totalprice = o_totalprice + n FROM (VALUES %s) AS v (k, n) WHERE o_orderkey = k"
        )
        with self._connection.cursor() as cursor:
            execute_values(cursor, statement, list(times.items()))
