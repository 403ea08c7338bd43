"""Deep statements: planned like others, and the limits that others rely on stand again afterwards."""

from __future__ import annotations

import sys
import threading

import pytest
from google.protobuf.message import DecodeError
from postgast import pg_query_pb2 as pb

from shardpool.errors import UnsupportedStatement
from shardpool.planner import depth
from shardpool.planner.ast import parse
from shardpool.planner.plan import PushdownPlan, SinglePlan
from tests.planner.hand_made import plan

CHAIN = " || ".join(["note"] * 700)


def planned(sql: str) -> object:
    return depth.at_any_depth(lambda: plan(sql, {}))


def test_a_long_chain_is_pushed_down() -> None:
    found = planned(f"select id, {CHAIN} as x from orders where {CHAIN} <> ''")
    assert isinstance(found, PushdownPlan)
    assert found.partial.count("note") == 1400


def test_a_long_chain_beside_a_key_is_sent_as_it_is() -> None:
    found = planned(f"select {CHAIN} as x from orders where customer_id = 7")
    assert isinstance(found, SinglePlan)
    assert CHAIN in found.sql


def test_a_difference_at_the_bottom_is_seen() -> None:
    with depth.deep_trees():
        same = parse(f"select {CHAIN}") == parse(f"select {CHAIN}")
        other = parse(f"select {CHAIN}") == parse(f"select {CHAIN.replace('note', 'name', 1)}")
    assert (same, other) == (True, False)


def test_what_is_too_deep_even_so_is_refused() -> None:
    for count in (2600, 6000):
        with pytest.raises(UnsupportedStatement, match="SP115"):
            planned("select " + " + ".join(["1"] * count))


def test_the_limits_stand_again() -> None:
    data = parse(f"select {CHAIN}").SerializeToString()
    calls, stack = sys.getrecursionlimit(), threading.stack_size()
    planned(f"select {CHAIN} from orders")
    assert (sys.getrecursionlimit(), threading.stack_size()) == (calls, stack)
    with pytest.raises(DecodeError):
        pb.ParseResult.FromString(data)


def test_two_at_once_do_not_take_each_other_s_room() -> None:
    """The limits stand again when the last one is done, not the first."""
    data = parse(f"select {CHAIN}").SerializeToString()
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with depth.deep_trees():
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    planned(f"select {CHAIN} from orders")
    assert pb.ParseResult.FromString(data).stmts
    done.set()
    thread.join(30)
    with pytest.raises(DecodeError):
        pb.ParseResult.FromString(data)


def test_nested_subqueries_do_not_double_the_work() -> None:
    """Twenty of them once took a thousand times as long as ten."""
    assert plan("select id from orders where id in (" * 20 + "1" + ")" * 20, {}) is not None
