"""A copy without persons: joins hold, nothing personal is left, the secret decides."""

from __future__ import annotations

import csv
import io
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardpool import Router, read_config
from shardpool.errors import ConfigError, JobFailed, JobRefused
from shardpool.jobs import cancel_job, plan_job, resume_job, run_job
from shardpool.jobs.spec import read_spec
from tests.jobs.anonymise_tools import GONE, SECRET, SPEC, VARIABLE, content, dump, fill, opened, sizes_of_joins
from tests.jobs.anonymise_tools import write_config as write_cluster
from tests.jobs.job_tools import prepared
from tests.support.backends import databases


@pytest.fixture(scope="module")
def shop(server_urls: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Two shards full of persons."""
    seed = int(os.environ.get("SHARDPOOL_SEED", "20"))
    print("seed", seed)
    with databases(server_urls[:2]) as urls:
        path = write_cluster(tmp_path_factory.mktemp("shop") / "cluster.toml", urls, "shop")
        Router.initialise(read_config(path))
        with opened(path) as router:
            fill(router, seed)
            yield router


@pytest.fixture
def spec(server_urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A job file with an empty destination of three shards beside it."""
    monkeypatch.setenv(VARIABLE, SECRET)
    with databases(server_urls) as urls:
        write_cluster(tmp_path / "anon.toml", urls, "anon", partitions=6)
        path = tmp_path / "job.toml"
        path.write_text(SPEC)
        yield path


@pytest.fixture(autouse=True)
def no_jobs(shop: Router) -> Iterator[None]:
    yield
    from sqlalchemy import text

    with shop.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))


def anon(spec: Path) -> Any:
    return opened(spec.with_name("anon.toml"))


def test_joins_hold_and_nothing_personal_is_left(shop: Router, spec: Path) -> None:
    result = run_job(shop, spec)
    assert result.state == "done"
    with anon(spec) as copy:
        assert sizes_of_joins(copy) == sizes_of_joins(shop)
        for key in copy.query("SELECT customer_id FROM customers LIMIT 20").scalars().all():
            assert copy.execute(key, "SELECT 1 FROM customers WHERE customer_id = :k", {"k": key}).scalar_one() == 1
        everything = dump(copy)
        for table, columns in GONE.items():
            for column in columns:
                for value in shop.query(f"SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL").scalars():
                    assert value not in everything, (table, column, value)
        for trace in ("mail.invalid", SECRET, "151 2345678"):
            assert trace not in everything
        assert "1970-01-02" in everything  # a date in a text is no telephone number
        assert SECRET not in dump(shop)


def test_the_search_sees_a_value_that_was_kept(shop: Router, spec: Path) -> None:
    spec.write_text(SPEC.replace('name = { rule = "fake", kind = "name" }', 'name = "keep"'))
    run_job(shop, spec)
    with anon(spec) as copy:
        assert "Zacharias17 Quux" in dump(copy)


def test_what_each_rule_does(shop: Router, spec: Path) -> None:
    run_job(shop, spec)
    with anon(spec) as copy:
        rows = copy.query("SELECT * FROM customers").mappings().all()
        for row in rows:
            assert row["email"].endswith("@example.org")
            assert row["phone"] is None or (row["phone"][:4] == "+49 " and len(row["phone"]) == 14)
            assert (row["born"].month, row["born"].day, len(row["postcode"])) == (1, 1, 2)
            assert (row["internal"], row["nickname"]) == (None, "x")
            assert "user-" in row["remarks"]
            assert "write\tto" in row["remarks"]
            assert row["remarks"].endswith("\nok")
        assert len({row["email"] for row in rows}) == len(rows) == 300
        # Scrubbed addresses in different tables stay equal.
        mailed = copy.query("SELECT m.subject, c.remarks FROM mails m JOIN customers c ON c.customer_id = m.sent_to")
        assert all(row.subject.split()[-1] in row.remarks for row in mailed)
        scores = "SELECT score, count(*) FROM customers GROUP BY score ORDER BY 1"
        assert copy.query(scores).all() == shop.query(scores).all()
        before, after = (float(it.query("SELECT sum(income) FROM customers").scalar_one()) for it in (shop, copy))
        assert before != after
        assert abs(before - after) < before * 0.03


def test_the_secret_decides(
    shop: Router, spec: Path, server_urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for secret in (SECRET, SECRET, SECRET + "!"):
        monkeypatch.setenv(VARIABLE, secret)
        with databases(server_urls[:1]) as urls:
            write_cluster(spec.with_name("anon.toml"), urls, "anon", partitions=3)
            run_job(shop, spec)
            with anon(spec) as copy:
                found.append(content(copy))
    assert found[0] == found[1]
    for table, columns in GONE.items():
        assert columns
        assert found[2][table] != found[0][table]


def test_kill_and_resume_by_processes(shop: Router, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.write_text(SPEC.replace("chunk_rows = 50", 'chunk_rows = 50\nexecutor = "processes"\nworkers = 2'))
    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-7-decided:kill9")
    with pytest.raises(JobFailed):
        run_job(shop, spec)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert resume_job(shop, "for-tests").state == "done"
    with anon(spec) as copy:
        assert sizes_of_joins(copy) == sizes_of_joins(shop)


@pytest.mark.parametrize("change", ["secret", "rule", "limits"])
def test_a_resumed_job_is_the_same(shop: Router, spec: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    spec.write_text(SPEC.replace("chunk_rows = 50", 'executor = "processes"\nworkers = 1'))
    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-7-decided:kill9")
    with pytest.raises(JobFailed):
        run_job(shop, spec)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    if change == "secret":
        monkeypatch.setenv(VARIABLE, "quite another secret")
    if change == "rule":
        spec.write_text(spec.read_text().replace("percent = 10", "percent = 20"))
    if change == "limits":
        spec.write_text(spec.read_text().replace("workers = 1", "workers = 2"))
        assert resume_job(shop, spec).state == "done"
    else:
        with pytest.raises(JobRefused, match="cannot be resumed"):
            resume_job(shop, spec)
        monkeypatch.setenv(VARIABLE, SECRET)
        cancel_job(shop, "for-tests")
        with anon(spec) as copy:
            assert not any(prepared(copy, shard) for shard in copy.shard_map.shards)


def test_files(shop: Router, spec: Path) -> None:
    spec.write_text(SPEC.replace('config = "anon.toml"', 'directory = "out"'))
    run_job(shop, spec)
    paths = sorted((spec.parent / "out").rglob("*.csv"))
    texts = [path.read_text() for path in paths if path.parent.name == "customers"]
    rows = [row for text in texts for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert len(rows) == 300
    assert not any("mail.invalid" in path.read_text() for path in paths)
    assert {row["customer_id"] for row in rows}.isdisjoint(
        map(str, shop.query("SELECT customer_id FROM customers").scalars())
    )
    with pytest.raises(JobRefused, match="not empty"):
        run_job(shop, spec)


def test_privacy_is_measured(shop: Router, spec: Path) -> None:
    wish = '[[privacy]]\ntable = "customers"\nquasi = ["born", "country_code"]\nsensitive = "score"\nk = {}\nl = 1\n'
    spec.write_text(SPEC + wish.format(2))
    result = run_job(shop, spec)
    with anon(spec) as copy:
        groups = copy.query("SELECT born, country_code FROM customers").all()
        smallest = min(groups.count(it) for it in set(groups))
    assert result.checks["privacy"][0]["k"] == smallest
    with pytest.raises(JobRefused, match="has rows already"):
        run_job(shop, spec)


def test_too_little_privacy_fails_the_job(shop: Router, spec: Path) -> None:
    spec.write_text(SPEC + '[[privacy]]\ntable = "customers"\nquasi = ["name"]\nk = 50\n')
    with pytest.raises(JobFailed, match="not anonymous enough"):
        run_job(shop, spec)


def test_a_value_that_a_rule_cannot_read(shop: Router, spec: Path) -> None:
    key = 7_000_000_000
    shop.execute(key, "UPDATE customers SET born = 'infinity' WHERE customer_id = :k", {"k": key})
    try:
        spec.write_text(SPEC.replace("[run]", '[bad_rows]\nmax = 9\ndirectory = "rejects"\n\n[run]'))
        # Its three orders lose their customer, and four items their order.
        assert run_job(shop, spec).progress.rejected == 8
        told = "".join(path.read_text() for path in sorted((spec.parent / "rejects").iterdir()))
        assert f"(customer_id)=({key})" in told
        assert "column born: not a date" in told
        assert told.count("23503") == 7
    finally:
        shop.execute(key, "UPDATE customers SET born = '1990-01-01' WHERE customer_id = :k", {"k": key})


# -- before anything runs -------------------------------------------------------------------------------------------


def test_the_coverage_report(shop: Router, spec: Path) -> None:
    spec.write_text(SPEC.replace('remarks = "scrub"', 'remarks = "keep"').replace('tag = "pseudonym"', 'tag = "keep"'))
    spec.write_text(spec.read_text().replace('internal = "null"', 'internal = "keep"'))
    key = shop.query("SELECT min(customer_id) FROM customers").scalar_one()
    shop.execute(key, "UPDATE customers SET internal = 'x@y.invalid' WHERE customer_id = :k", {"k": key})
    columns = {(it["table"], it["column"]): it for it in plan_job(shop, spec)["columns"]}
    assert len(columns) == sum(len(shop.topology.tables[name].columns) for name in shop.topology.tables)
    assert columns["orders", "customer_id"]["follows"] == "customers.customer_id"
    assert columns["order_items", "order_id"]["follows"] == "orders.order_id"
    assert "name looks personal" in columns["customers", "remarks"]["warning"]
    assert "e-mail addresses" in columns["customers", "internal"]["warning"]
    assert not columns["customers", "tag"]["warning"]
    shop.execute(key, "UPDATE customers SET internal = 'secret note 0' WHERE customer_id = :k", {"k": key})
    assert columns["country", "name"]["warning"] == "its name looks personal"


def test_a_dry_run_writes_nothing(shop: Router, spec: Path) -> None:
    plan = plan_job(shop, spec)
    assert {it["table"] for it in plan["samples"]} == {"country", "customers", "orders", "order_items", "mails"}
    assert "mail.invalid" not in str(plan["samples"])
    with pytest.raises(Exception, match="never initialised"), anon(spec):
        pass


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('status = "keep"', "", r"orders: no decision \(a rule, or keep\) for status"),
        ('order_id = "pseudonym"', 'order_id = { rule = "noise", amount = 3 }', "does not keep values apart"),
        ("[tables.order_items]", "[tables.order_items]\norder_id = 'keep'", "refers to orders.order_id"),
        ('internal = "null"', 'internal = { rule = "noise", amount = 3 }', "the column is text"),
        ('status = "keep"', 'status = "null"', "needs a column that may be NULL"),
        ('phone = { rule = "mask", keep_first = 3 }', 'phone = { rule = "pseudonym", as = "email" }', "room for 16"),
        ('locale = "de_DE"', 'locale = "xx_XX"', "no locale"),
        ("[tables.mails]", "[tables.nothing]", "nothing: no such table"),
        ('internal = "null"', 'internally = "null"', "internally: no such column"),
    ],
)
def test_rules_that_do_not_fit_are_refused(shop: Router, spec: Path, old: str, new: str, message: str) -> None:
    assert old in SPEC
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(JobRefused, match=message):
        plan_job(shop, spec)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rule = "fake"', 'rule = "forge"', "tables.customers.name.rule: got 'forge'"),
        ('internal = "null"', 'internal = "nil"', "tables.customers.internal: got 'nil'"),
        ('to = "year"', 'to = "week"', "tables.customers.born"),
        (f'env = "{VARIABLE}"', f'value = "{SECRET}"', "secret"),
        ('job = "anonymise"', 'job = "anonymize"', "job: got 'anonymize'"),
        ('name = "for-tests"', "", "also name"),
    ],
)
def test_the_file_is_validated(spec: Path, old: str, new: str, message: str) -> None:
    assert old in SPEC
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_spec(spec)


def test_a_short_secret_is_refused(shop: Router, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(JobRefused, match="at least 16 bytes"):
        plan_job(shop, spec)


def test_a_spec_may_be_a_mapping(shop: Router, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(spec.parent)
    assert run_job(shop, tomllib.loads(SPEC)).state == "done"
