"""Chunks on a Dask cluster of processes, which open their own ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from shardpool import Router, faults
from shardpool.errors import JobRefused
from tests.jobs.job_tools import OPTIONS, check_copied, replace, start

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two worker processes."""
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address.removeprefix("tcp://")


def test_a_dask_cluster(router: Router, scheduler: str) -> None:
    done = start(router, executor=f"dask://{scheduler}", options=replace(OPTIONS, workers=4))
    assert done.state == "done"
    check_copied(router)


@pytest.mark.slow
def test_a_dask_worker_that_dies(router: Router, scheduler: str) -> None:
    """Dask gives the chunk to another worker by itself; the ledger lets it count once."""
    with distributed.Client(f"tcp://{scheduler}", set_as_default=False) as client:
        client.run(_die_at_the_chunk)
        before = set(client.run(os.getpid).values())
    done = start(router, executor=f"dask://{scheduler}", options=replace(OPTIONS, workers=4))
    assert done.state == "done"
    with distributed.Client(f"tcp://{scheduler}", set_as_default=False) as client:
        assert set(client.run(os.getpid).values()) != before
    check_copied(router)


def _die_at_the_chunk() -> None:
    faults.armed = "chunk-13-prepared:kill9"


def test_no_scheduler_there(router: Router) -> None:
    with pytest.raises(JobRefused, match="no Dask scheduler"):
        start(router, executor="dask://127.0.0.1:1")
