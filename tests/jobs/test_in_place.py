"""Anonymising in place: before, or nothing, or after; whatever dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardpool import Router, read_config
from shardpool.errors import JobFailed, JobRefused
from shardpool.jobs import cancel_job, job_status, resume_job, run_job
from shardpool.jobs.anonymise import back
from tests.cli.cli_tools import program
from tests.jobs.anonymise_tools import (
    GONE,
    SECRET,
    SPEC,
    VARIABLE,
    content,
    dump,
    fill,
    opened,
    persons,
    sizes_of_joins,
    write_config,
)
from tests.support.backends import databases

SEED = 20


@pytest.fixture
def shop(server_urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    """A shop, another keyspace in other databases, and the job file beside their configurations."""
    monkeypatch.setenv(VARIABLE, SECRET)
    with databases(server_urls[:2]) as urls, databases(server_urls[:2]) as others:
        path = write_config(tmp_path / "cluster.toml", urls, "shop")
        write_config(tmp_path / "anon.toml", others, "anon", partitions=6)
        (tmp_path / "job.toml").write_text(
            SPEC.replace('config = "anon.toml"', 'config = "anon.toml"\nin_place = true')
        )
        Router.initialise(read_config(path))
        with opened(path) as router:
            fill(router, SEED)
            yield router


def check_anonymous(shop: Router, joins: object, folder: Path) -> None:
    shop.refresh()
    assert sizes_of_joins(shop) == joins
    text = dump(shop)
    for n, name in enumerate(person[2] for person in persons(SEED)):
        assert name not in text, (n, name)
    with opened(folder / "anon.toml") as copy:
        assert all(rows == [] for rows in content(copy).values())


def test_nothing_is_half_way(shop: Router, tmp_path: Path) -> None:
    joins, before = sizes_of_joins(shop), {row[0] for row in shop.query("SELECT name FROM customers")}
    seen: list[set[str]] = []
    stop = threading.Event()

    def read() -> None:
        with opened(tmp_path / "cluster.toml") as router:
            while not stop.is_set():
                with router.transaction() as tx:
                    seen.append({row[0] for row in tx.query("SELECT name FROM customers")})

    reader = threading.Thread(target=read)
    reader.start()
    try:
        result = run_job(shop, tmp_path / "job.toml")
    finally:
        stop.set()
        reader.join()
    assert result.state == "done"
    check_anonymous(shop, joins, tmp_path)
    assert seen
    assert all(names <= before or not names & before for names in seen)
    assert [it.state for it in job_status(shop)] == ["done", "done"]
    assert GONE


@pytest.mark.parametrize("point", [pytest.param("emptied", marks=pytest.mark.slow), "chunk-5-decided"])
def test_kill_9_in_the_second_pass(shop: Router, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joins = sizes_of_joins(shop)
    arguments = (tmp_path / "job.toml", "--config", tmp_path / "cluster.toml")
    monkeypatch.setenv("SHARDPOOL_FAULT", "emptied:kill9")
    assert program("job", "run", *arguments).code == -9
    if point != "emptied":
        monkeypatch.setenv("SHARDPOOL_FAULT", f"{point}:kill9")
        assert program("job", "resume", *arguments).code == -9
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert resume_job(shop, "for-tests").state == "done"
    check_anonymous(shop, joins, tmp_path)


def test_rows_that_were_written_meanwhile_are_not_lost(
    shop: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = back.check_unwritten

    def late(router: Router, *rest: object) -> None:
        shop.query("UPDATE customers SET remarks = 'new' WHERE customer_id = 7000000000")
        check(router, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("shardpool.jobs.anonymise.job.check_unwritten", late)
    with pytest.raises(JobFailed, match="customers were written since"):
        run_job(shop, tmp_path / "job.toml")
    assert shop.query("SELECT count(*) FROM customers WHERE remarks = 'new'").scalar_one() == 1
    cancel_job(shop, "for-tests")
    assert len(content(shop)["customers"]) == len(persons(SEED))


def test_tables_that_would_stay_are_refused(shop: Router, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(path.read_text().replace("[to]", 'skip_tables = ["mails"]\n[to]', 1).partition("[tables.mails]")[0])
    with pytest.raises(JobRefused, match="skip_tables"):
        run_job(shop, path)
