"""A destination whose disk is full: the job stops, says why, and goes on from there when there is room again."""

from __future__ import annotations

import pytest

from shardpool import Router
from shardpool.errors import JobFailed
from shardpool.jobs import job_status, resume_job, run_job
from shardpool.local import LocalCluster
from tests.jobs.job_tools import config_of, make_tables
from tests.support.full_disk import LIMIT, restart

SPEC = {
    "job": "etl",
    "name": "full",
    "extract": {"table": "item", "key": ["id"]},
    "load": {"table": "to_item"},
    "run": {"chunk_rows": 2000, "workers": 2},
}
ROWS = 80_000


@pytest.mark.slow
def test_a_full_disk() -> None:
    with LocalCluster(shards=2, partitions=1) as cluster:
        config = config_of([cluster.url(name) for name in cluster.names], partitions=2)
        Router.initialise(config)
        with Router(config, listen=False) as router:
            make_tables(router, 1)
            router.copy_into("to_kind", [("a", ""), ("b", ""), ("c", "")])
            router.copy_into("item", [(n, "a", "x" * 600, 1) for n in range(1, ROWS)])
            restart(cluster, "s1", LIMIT)
            with pytest.raises(JobFailed, match=r"could not (extend|write)"):
                run_job(router, SPEC)
            [record] = job_status(router)
            assert record.state == "failed"
            assert "could not" in record.error
            restart(cluster, "s1", None)
            assert resume_job(router, "full").state == "done"
            count = "SELECT count(*), count(DISTINCT id), sum(id) FROM {}"
            assert router.query(count.format("to_item")).one() == router.query(count.format("item")).one()
