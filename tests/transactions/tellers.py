"""Processes that transfer money in many threads, and write down what they were told, until something happens to them.

A teller's log has a line ``<transfer> <word>`` per fact: ``begun``, then at most one of ``ok``, ``failed`` (told that
nothing happened) and ``doubt <txid>``. What a process that died was not told, may be either.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from shardpool import Config, Router, faults
from shardpool.errors import InDoubt, ShardpoolError
from shardpool.two_phase import commit
from tests.transactions.bank import ACCOUNTS, transfer_on

THREADS = 16
POINTS = (
    "tx:recorded",
    "tx:prepared-one",
    "tx:prepared",
    "tx:decided",
    "tx:committed-one",
    "tx:committed",
    "tx:alone",
)


@dataclass(frozen=True)
class Order:
    """What a teller is to do: *transfers* per thread, or what *serve* does; and at the *hit*-th passing of *point* get
    *signal*."""

    config: Config
    log: Path
    seed: int
    transfers: int
    point: str = ""
    hit: int = 0
    signal: int = signal.SIGKILL
    plant: str = ""
    serve: Callable[[Order, Router, int, int], None] | None = None


class Teller:
    """The process. `end` waits for it."""

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["shardpool.router", "tests.transactions.tellers"])
        self._trace = order.log.with_suffix(".trace")
        self._process = context.Process(target=_work, args=(order,), daemon=True)
        self._process.start()

    def end(self, seconds: float = 60) -> int:
        """Return the exit code, -9 if it was killed."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"the teller does not end:\n{self._trace.read_text()}"
        return self._process.exitcode

    @property
    def frozen(self) -> bool:
        command = ["ps", "-o", "stat=", "-p", str(self._process.pid)]
        return subprocess.run(command, capture_output=True, text=True).stdout.startswith("T")

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def thaw(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)


def _work(order: Order) -> None:
    _arm(order)
    commit.DECISION_TIME = 2.0
    commit.ASK_PATIENCE = 1.0
    if order.plant:
        PLANTS[order.plant]()
    # What its threads do, if it does not end.
    faulthandler.dump_traceback_later(40, file=order.log.with_suffix(".trace").open("w"))
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Router(order.config, listen=False) as router:
        serve = order.serve or _serve
        threads = [threading.Thread(target=serve, args=(order, router, log, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _arm(order: Order) -> None:
    lock = threading.Lock()
    passed = 0

    def fault_point(name: str) -> None:
        nonlocal passed
        if name != order.point:
            return
        with lock:
            passed += 1
            if passed == order.hit:
                os.kill(os.getpid(), order.signal)

    faults.fault_point = fault_point


def _serve(order: Order, router: Router, log: int, number: int) -> None:
    choose = random.Random(order.seed * 1000 + number)
    for step in range(order.transfers):
        name = f"{order.seed}-{number}-{step}"
        keys = choose.sample(range(ACCOUNTS), choose.choice([1, 2, 3, 3, 3]))
        os.write(log, f"{name} begun {','.join(map(str, keys))}\n".encode())
        try:
            transfer_on(router, keys, name)
        except InDoubt as error:
            os.write(log, f"{name} doubt {error.txid}\n".encode())
        except (ShardpoolError, DBAPIError) as error:
            reason = str(error).replace("\n", " ")
            os.write(log, f"{name} failed {type(error).__name__} {reason}\n".encode())
        else:
            os.write(log, f"{name} ok\n".encode())


# -- planted faults -------------------------------------------------------------------------------------------------


def _decide_before_all_prepared() -> None:
    """Commit the decider first, then prepare and commit the others."""

    def run(self: Any) -> bool:
        self._record()
        self._decide()
        self._prepare()
        return bool(self._commit_prepared())

    commit._Commit.run = run  # type: ignore[method-assign]


def _without_two_phases() -> None:
    """Commit one shard after another."""

    def run(self: Any) -> bool:
        for connection in self._connections.values():
            with connection.cursor() as cursor:
                commit._end(cursor, "COMMIT")
            faults.fault_point("tx:prepared-one")
        return True

    commit._Commit.run = run  # type: ignore[method-assign]


def _lie_about_lost_answers() -> None:
    """Take a decision whose answer was lost for none."""
    commit._missed = lambda *arguments: "aborted"


PLANTS = {
    "decide-first": _decide_before_all_prepared,
    "one-after-another": _without_two_phases,
    "lie": _lie_about_lost_answers,
}
