"""Everything at once: writers of every kind against a plain model, while partitions move, split, merge and are pinned.

Each writer owns some members, so its model is exact: what it was told is committed must be there in the end, once, in
the right partition, with its reservation; what failed must have done nothing. `SHARDPOOL_SEED` runs one again,
`SHARDPOOL_CHANGES` says how many changes of the partitions there are.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import BigInteger
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shardpool import Config, Router, Sharded
from shardpool.errors import MoveError, ShardpoolError
from shardpool.jobs.digest import differing_reservations
from shardpool.moves import change_partitions, move_partition, plan_merge, plan_pin, plan_split, plan_unpin
from tests.support.waiting import eventually

SEED = os.environ.get("SHARDPOOL_SEED") or secrets.token_hex(4)
CHANGES = int(os.environ.get("SHARDPOOL_CHANGES", "3"))
WRITERS = 3

DDL = """
CREATE TABLE members (member_id bigint PRIMARY KEY, email text, points int NOT NULL DEFAULT 0);
CREATE TABLE emails (email text PRIMARY KEY, member_id bigint NOT NULL);
"""
TABLES = {"members": Sharded("member_id", {"email": "emails"}), "emails": Sharded("email")}

Model = dict[int, tuple[str | None, int]]


class Base(DeclarativeBase):
    pass


class Member(Base):
    __tablename__ = "members"
    member_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str | None]
    points: Mapped[int]


@pytest.fixture
def club(config: Config) -> Iterator[Router]:
    with Router(config) as router:
        router.create_schema(DDL, TABLES)
        yield router


VERSION = "SELECT current_setting('server_version_num')::int"
#: The others need PostgreSQL 18.
RENAMES = [
    "UPDATE members SET email = :email WHERE member_id = :key",
    "INSERT INTO members VALUES (:key, :email, 0) ON CONFLICT (member_id) DO UPDATE SET email = excluded.email",
    "MERGE INTO members m USING (VALUES (CAST(:key AS bigint), CAST(:email AS text))) AS v(id, new) "
    "ON m.member_id = v.id WHEN MATCHED THEN UPDATE SET email = new",
    "MERGE INTO members m USING (VALUES (CAST(:old AS text), CAST(:email AS text))) AS v(old, new) "
    "ON m.email = v.old AND m.member_id <> 0 WHEN MATCHED THEN UPDATE SET email = v.new "
    "WHEN NOT MATCHED THEN INSERT (member_id, email) VALUES (0, 'not found')",
]


class Writer(threading.Thread):
    """Writes its own members, one statement or transaction after another, and keeps the model."""

    def __init__(self, config: Config, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"writer-{number}")
        self.number, self.stop = number, stop
        self.random = random.Random(f"{SEED}:{number}")
        self.router = Router(config, listen=number != 0)  # one hears of nothing and stumbles
        self.model: Model = {}
        self.done = 0
        self.error: BaseException | None = None
        self._fresh = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set() or self.done < 50:
                self.step()
                self.done += 1
        except BaseException as error:
            self.error = error
        finally:
            self.router.close()

    def step(self) -> None:
        work = self.random.choice(
            [self.insert, self.insert, self.update, self.rename, self.renumber, self.delete, self.transfer, self.orm]
        )
        while True:
            after = dict(self.model)
            try:
                work(after)
            except ShardpoolError as error:
                if not error.retryable:
                    raise
                continue
            self.model = after
            return

    def _new(self) -> tuple[int, str]:
        self._fresh += 1
        return self.number * 1_000_000 + self._fresh, f"m{self.number}.{self._fresh}@x"

    def _one(self, model: Model) -> int | None:
        return self.random.choice(sorted(model)) if model else None

    def insert(self, model: Model) -> None:
        rows = [(*self._new(), self.random.randint(0, 9)) for _ in range(self.random.randint(1, 4))]
        values = ", ".join(f"({key}, '{email}', {points})" for key, email, points in rows)
        found = self.router.query(f"INSERT INTO members VALUES {values} RETURNING member_id")
        assert [key for (key,) in found] == [key for key, _, _ in rows]
        model.update({key: (email, points) for key, email, points in rows})

    def update(self, model: Model) -> None:
        low, high = self.number * 1_000_000, (self.number + 1) * 1_000_000
        sql = "UPDATE members SET points = points + 1 WHERE member_id BETWEEN :low AND :high AND points < 5"
        self.router.query(sql, {"low": low, "high": high})
        for key, (email, points) in model.items():
            model[key] = email, points + (points < 5)

    def rename(self, model: Model) -> None:
        key = self._one(model)
        if key is None:
            return
        taken = self._one(model)
        email = model[taken][0] if taken is not None and self.random.random() < 0.3 else self._new()[1]
        sql = self.random.choice(RENAMES if self.router.execute(1, VERSION).scalar_one() >= 180000 else RENAMES[:1])
        try:
            done = self.router.query(sql, {"email": email, "key": key, "old": model[key][0]})
            assert done.rowcount == 1  # type: ignore[attr-defined]
        except IntegrityError:
            assert email is not None and taken != key
            return
        assert all(email != found for other, (found, _) in model.items() if other != key)
        model[key] = email, model[key][1]

    def renumber(self, model: Model) -> None:
        key = self._one(model)
        if key is not None:
            new, _ = self._new()
            found = self.router.query(
                "UPDATE members SET member_id = :new WHERE member_id = :key", {"new": new, "key": key}
            )
            assert found.rowcount == 1  # type: ignore[attr-defined]
            model[new] = model.pop(key)

    def delete(self, model: Model) -> None:
        key = self._one(model)
        if key is not None:
            self.router.query("DELETE FROM members WHERE member_id = :key", {"key": key})
            del model[key]

    def transfer(self, model: Model) -> None:
        one, other = self._one(model), self._one(model)
        if one is None or other is None or one == other:
            return
        fails = self.random.random() < 0.2
        before = dict(model)
        try:
            with self.router.transaction() as tx:
                for key, change in ((one, -1), (other, 1)):
                    sql = "UPDATE members SET points = points + :n WHERE member_id = :key"
                    tx.query(sql, {"n": change, "key": key})
                    model[key] = model[key][0], model[key][1] + change
                if fails:
                    raise _Undone
        except _Undone:
            model.clear()
            model.update(before)

    def orm(self, model: Model) -> None:
        key = self._one(model)
        new, email = self._new()
        with self.router.session() as session:
            if key is not None:
                member = session.get(Member, key)
                assert member is not None and (member.email, member.points) == model[key]
                member.points += 10
                model[key] = model[key][0], model[key][1] + 10
            session.add(Member(member_id=new, email=email, points=1))
            session.commit()
        model[new] = email, 1


class _Undone(Exception):
    pass


def change(router: Router, rng: random.Random) -> str:
    """Change the partitions somehow; return what was done."""
    router.refresh()
    partitions = [it.partition for it in router.shard_map.placements]
    shards = sorted(router.shard_map.shards)
    chosen = rng.choice(partitions)
    kind = rng.choice(
        ["move", "split", "merge", "pin", "unpin"] if len(partitions) < 14 else ["move", "merge", "unpin"]
    )
    target = rng.choice(shards)
    match kind:
        case "split" if chosen.high - chosen.low > 1:
            change_partitions(router, plan_split(router, chosen.id, None, target))
        case "merge" if len(partitions) > 4:
            place = rng.randrange(len(partitions) - 1)
            change_partitions(router, plan_merge(router, [it.id for it in partitions[place : place + 2]], target))
        case "pin":
            change_partitions(router, plan_pin(router, rng.randrange(3) * 1_000_000 + 1, target))
        case "unpin" if any(it.high - it.low == 1 for it in partitions):
            pinned = next(it for it in partitions if it.high - it.low == 1)
            change_partitions(router, plan_unpin(router, pinned.id))
        case _:
            if router.shard_map.owner(chosen.id).name != target:
                move_partition(router, chosen.id, target)
    return kind


def test_writers_of_every_kind(club: Router, config: Config) -> None:
    print(f"SHARDPOOL_SEED={SEED} SHARDPOOL_CHANGES={CHANGES}")
    rng, stop = random.Random(SEED), threading.Event()
    writers = [Writer(config, number, stop) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    changed: list[str] = []
    try:
        with Router(config) as mover:
            while len(changed) < CHANGES and all(writer.is_alive() for writer in writers):
                try:
                    changed.append(change(mover, rng))
                except MoveError as error:
                    if not error.retryable and "for itself already" not in str(error):
                        raise
    finally:
        stop.set()
        for writer in writers:
            writer.join(120)
    for writer in writers:
        if writer.error is not None:
            raise writer.error
        assert not writer.is_alive()
    print(changed, [writer.done for writer in writers])
    _agree(club, {key: row for writer in writers for key, row in writer.model.items()})


def _agree(club: Router, model: Model) -> None:
    club.refresh()
    expected = sorted((key, *row) for key, row in model.items())
    assert sorted(map(tuple, club.query("SELECT * FROM members"))) == expected
    reserved = sorted((email, key) for key, (email, _) in model.items() if email is not None)
    assert sorted(map(tuple, club.query("SELECT * FROM emails"))) == reserved
    assert differing_reservations(club.engines, club.topology) == {}
    for placement in club.shard_map.placements:
        with club.shard(placement.shard).engine.connect() as connection:
            for table, column in (("members", "member_id"), ("emails", "email")):
                found = connection.exec_driver_sql(f"SELECT {column} FROM {placement.partition.schema}.{table}")
                assert all(club.partition_of(key, table) == placement.partition for (key,) in found)
    for key in list(model)[:20]:
        assert (
            club.execute(key, "SELECT points FROM members WHERE member_id = :k", {"k": key}).scalar() == model[key][1]
        )
    eventually(lambda: not any(it.in_use for it in club.stats().pools.values()), "all connections are given back")
