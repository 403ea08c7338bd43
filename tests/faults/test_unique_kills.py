"""Columns that are unique over all partitions, under kill -9 of who writes them: reservations and rows agree.

Threads of a process give members e-mails out of too few, each thread members of its own, by every kind of write; the
process is killed at a fault point, the resolver works, and then every member has an e-mail that it was given last, or
that was under way, no two have the same, and `doctor`'s comparison finds nothing.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool import Router, Sharded
from shardpool.errors import InDoubt, ShardpoolError
from shardpool.jobs.digest import differing_reservations
from tests.faults.test_two_phase_bank import SEED, resolve
from tests.transactions.bank import Bank, open_bank
from tests.transactions.tellers import Order, Teller

#: Rounds in the default run; `SHARDPOOL_KILLS=70` is the whole.
KILLS = int(os.environ.get("SHARDPOOL_KILLS", "3"))
POINTS = ("tx:prepared-one", "tx:decided", "tx:committed-one", "tx:recorded", "tx:prepared", "tx:committed", "tx:alone")
DDL = (
    "CREATE TABLE members (member_id bigint PRIMARY KEY, email text); "
    "CREATE TABLE emails (email text PRIMARY KEY, member_id bigint NOT NULL)"
)
TABLES = {"members": Sharded("member_id", {"email": "emails"}), "emails": Sharded("email")}
OWN, EMAILS = 4, 40
NEW = ("insert", "insert-selected", "upsert", "merge")
AGAIN = ("update", "update_found", "upsert", "merge", "merge-found", "delete")
#: A member's e-mail becomes :email.
WRITES = {
    "insert": "INSERT INTO members VALUES (:member, :email)",
    "insert-selected": "INSERT INTO members SELECT count(*) - count(*) + :member, :email FROM members",
    "update": "UPDATE members SET email = :email WHERE member_id = :member",
    "update_found": "UPDATE members SET email = (SELECT min(:email) FROM members) WHERE member_id = :member",
    # These need PostgreSQL 18.
    "upsert": "INSERT INTO members VALUES (:member, :email) "
    "ON CONFLICT (member_id) DO UPDATE SET email = excluded.email",
    "merge": "MERGE INTO members m USING (VALUES (CAST(:member AS bigint), CAST(:email AS text))) AS v(id, new) "
    "ON m.member_id = v.id WHEN MATCHED THEN UPDATE SET email = new WHEN NOT MATCHED THEN INSERT VALUES (id, new)",
    "merge-found": "MERGE INTO members m USING (SELECT email FROM members WHERE member_id = :member) v "
    "ON m.email = v.email WHEN MATCHED THEN UPDATE SET email = :email",
    "delete": "DELETE FROM members WHERE member_id = :member AND :email IS NOT NULL",
}


def serve(order: Order, router: Router, log: int, number: int) -> None:
    """Write down ``<member> begun <email>``, and then ``ok``, ``failed`` or ``doubt <txid>``; "" stands for no row."""
    choose = random.Random(order.seed * 1000 + number)
    there = dict.fromkeys(range(number * OWN, (number + 1) * OWN), False)
    for _ in range(order.transfers):
        member, email = choose.choice(list(there)), f"e{choose.randrange(EMAILS)}"
        kind = choose.choice(AGAIN if there[member] else NEW)
        os.write(log, f"{member} begun {'' if kind == 'delete' else email}\n".encode())
        try:
            router.query(WRITES[kind], {"member": member, "email": email})
        except InDoubt as error:
            os.write(log, f"{member} doubt {error.txid}\n".encode())
            del there[member]
        except (ShardpoolError, DBAPIError):
            os.write(log, f"{member} failed\n".encode())
        else:
            os.write(log, f"{member} ok\n".encode())
            there[member] = kind != "delete"


@pytest.fixture(scope="module")
def club(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        found.router.create_schema(DDL, TABLES)
        yield found


def violations(club: Bank, log: Path) -> list[str]:
    """Return what is wrong with the members, given what their writers were told."""
    router = club.router
    may_be: dict[int, set[str]] = {}
    begun: dict[int, str] = {}
    for line in log.read_text().splitlines():
        name, word, rest = (*line.split(" ", 2), "")[:3]
        member = int(name)
        if word == "doubt":
            word = {"committed": "ok", "aborted": "failed"}[router.outcome(rest)]
        if word == "begun":
            begun[member] = rest
        elif word == "ok":
            may_be[member] = {begun.pop(member)}
        else:
            del begun[member]
    for member, email in begun.items():
        may_be[member] = may_be.get(member, {""}) | {email}
    rows = dict(router.query("SELECT member_id, email FROM members").all())
    wrong = [
        f"member {member} has {rows.get(member, '')!r}, not one of {emails}"
        for member, emails in may_be.items()
        if rows.get(member, "") not in emails
    ]
    wrong += [f"member {member} was never written" for member in rows if member not in may_be]
    if len(set(rows.values())) < len(rows):
        wrong.append("two members have one e-mail")
    reserved = {member: email for email, member in router.query("SELECT email, member_id FROM emails")}
    if reserved != rows:
        wrong.append(f"reservations {reserved}, rows {rows}")
    if differing_reservations(router.engines, router.topology):
        wrong.append("doctor sees a difference")
    return wrong


def killed(club: Bank, log: Path, seed: int, point: str, hit: int, plant: str = "") -> None:
    """A round, up to the end of what was in doubt."""
    club.router.query("TRUNCATE members, emails")
    order = Order(club.config, log, seed, transfers=60, point=point, hit=hit, plant=plant, serve=serve)
    assert Teller(order).end() == -signal.SIGKILL
    resolve(club, within=30.0)  # how soon that is, the bank's tests say


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_writers(club: Bank, tmp_path: Path, number: int) -> None:
    print(f"SHARDPOOL_SEED={SEED}")
    choose = random.Random(SEED * 3000 + number)
    killed(club, tmp_path / "log", SEED + number, POINTS[number % len(POINTS)], choose.randrange(5, 60))
    assert violations(club, tmp_path / "log") == []


def test_without_two_phases_it_is_noticed(club: Bank, tmp_path: Path) -> None:
    for number in range(12):
        log = tmp_path / f"log{number}"
        killed(club, log, number, "tx:prepared-one", 31 + number, "one-after-another")
        found = violations(club, log)
        if any("doctor" in told for told in found):
            assert any("reservations" in told for told in found)
            return
    raise AssertionError("no half of a write was seen")
