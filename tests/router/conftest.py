"""Rows for the tests of a router over the shop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router

INSERT = "INSERT INTO orders (customer_id, order_id, total, note) VALUES (:customer, :order, :total, :note)"


@pytest.fixture
def filled(shop: Router) -> Iterator[None]:
    for key in range(40):
        shop.execute(key, "INSERT INTO customers VALUES (:key, :name)", {"key": key, "name": f"c{key}"})
        for order in range(key % 4):
            values = {"customer": key, "order": order, "total": key + order, "note": f"100% :{key}"}
            shop.execute(key, INSERT, values)
    yield
    for key in range(40):
        shop.execute(key, "DELETE FROM orders WHERE customer_id = :key", {"key": key})
        shop.execute(key, "DELETE FROM customers WHERE customer_id = :key", {"key": key})
