"""Columns that are unique over all partitions: reservations are written along with every row, or nothing is."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import BigInteger, String
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shardpool import Config, Router, Sharded
from shardpool.errors import CrossShardDeadlock, SchemaDrift, UnknownTable, UnsupportedStatement
from shardpool.executor import writes
from shardpool.jobs.digest import differing_reservations
from shardpool.moves import move_partition
from shardpool.planner.writes import guarded

DDL = """
CREATE TABLE members (
    member_id bigint NOT NULL, line int NOT NULL, email text DEFAULT 'nobody', nick varchar(10), points int DEFAULT 0,
    PRIMARY KEY (member_id, line)
);
CREATE TABLE emails (email text PRIMARY KEY, member_id bigint NOT NULL);
CREATE TABLE users (user_id bigint PRIMARY KEY, login text, visits int DEFAULT 1);
CREATE TABLE logins (login text PRIMARY KEY, user_id bigint NOT NULL);
CREATE TABLE nicks (nick varchar(10) PRIMARY KEY, member_id bigint NOT NULL);
"""
TABLES = {
    "members": Sharded("member_id", {"email": "emails", "nick": "nicks"}),
    "emails": Sharded("email"),
    "users": Sharded("user_id", {"login": "logins"}),
    "logins": Sharded("login"),
    "nicks": Sharded("nick"),
}


@pytest.fixture(scope="module")
def opened(shop: Router) -> Router:
    shop.create_schema(DDL, TABLES)
    return shop


@pytest.fixture
def club(opened: Router) -> Iterator[Router]:
    opened.query("TRUNCATE members, emails, nicks")
    opened.query("TRUNCATE users, logins")
    opened._forget_plans()
    yield opened
    opened._forget_plans()
    assert all(stats.in_use == 0 for stats in opened.stats().pools.values())


def agreed(router: Router) -> None:
    """The reservations are those of the rows, each in its partition, and no value is there twice."""
    for column, name in router.topology.tables["members"].unique:
        rows = sorted(router.query(f"SELECT {column}, member_id FROM members WHERE {column} IS NOT NULL"))
        assert sorted(router.query(f"SELECT * FROM {name}")) == rows
        assert len({value for value, _ in rows}) == len(rows)
        for value, member in rows:
            assert router.find_key("members", **{column: value}) == member
    assert differing_reservations(router.engines, router.topology) == {}


def fill(router: Router, count: int = 20) -> None:
    rows = ", ".join(f"({n}, 1, 'm{n}@x', 'n{n}')" for n in range(count))
    router.query(f"INSERT INTO members (member_id, line, email, nick) VALUES {rows}")


WRITES = [
    "INSERT INTO members VALUES (100, 1, 'a@x', 'a'), (101, 1, NULL, NULL), (102, 1, 'c@x', NULL)",
    "INSERT INTO members (member_id, line) VALUES (100, 1)",
    "INSERT INTO members (member_id, line, email) SELECT member_id, 2, 'new ' || email FROM members "
    "RETURNING email, points",
    "INSERT INTO members (member_id, line, email) SELECT member_id + 50, 2, email || '+' FROM members",
    "INSERT INTO members VALUES (1, 1, 'z@x', 'z'), (200, 1, 'y@x', 'y') ON CONFLICT DO NOTHING",
    "DELETE FROM members WHERE member_id % 2 = 0",
    "DELETE FROM members WHERE email = 'm3@x' RETURNING *",
    "DELETE FROM members",
    "UPDATE members SET email = 'u' || email, points = 5 WHERE member_id > 10 RETURNING email",
    "UPDATE members SET email = NULL",
    "WITH gone AS (DELETE FROM members WHERE member_id < 9 RETURNING nick) SELECT max(nick), count(*) FROM gone",
    "WITH new AS (UPDATE members SET email = 'w' || email RETURNING email) SELECT max(email) FROM new",
    "UPDATE members SET nick = NULL, email = NULL WHERE nick = 'n4'",
    "UPDATE members SET email = email WHERE member_id < 5",
    "UPDATE members SET points = points + 1",
    "UPDATE members SET email = CASE member_id WHEN 1 THEN 'm2@x' ELSE 'm1@x' END WHERE member_id IN (1, 2)",
    "UPDATE members SET member_id = member_id + 1000 WHERE line = 1",
    "UPDATE members SET email = (SELECT max(email) || '!' FROM members) WHERE member_id = 7",
    "UPDATE members m SET email = 'x' FROM members o WHERE o.member_id = m.member_id AND m.member_id = 5; -- well",
]


@pytest.mark.parametrize("sql", WRITES)
def test_reservations_follow_their_rows(club: Router, sql: str) -> None:
    fill(club)
    expected = club.query("SELECT count(*) FROM members").scalar_one()
    result: Any = club.query(sql)
    if "RETURNING" in sql:
        assert all(len(row) == len(result.keys()) for row in result.all())
        assert not any(name.startswith("?") or "::" in name for name in result.keys())  # noqa: SIM118
    assert result.rowcount >= 1 and expected == 20
    agreed(club)


TWICE = [
    "INSERT INTO members VALUES (100, 1, 'm5@x')",
    "INSERT INTO members (member_id, line, nick) VALUES (100, 1, 'n3')",
    "INSERT INTO members VALUES (100, 1, 'same'), (101, 1, 'same')",
    "INSERT INTO members (member_id, line) VALUES (100, 1), (101, 1)",
    "INSERT INTO members (member_id, line, email) SELECT member_id + 100, 1, email FROM members",
    "UPDATE members SET email = 'one' WHERE member_id < 3",
    "UPDATE members SET email = 'm9@x' WHERE member_id = 3",
    "UPDATE members SET email = (SELECT max(email) FROM members) WHERE member_id = 3",
]


@pytest.mark.parametrize("sql", TWICE)
def test_a_value_is_there_once(club: Router, sql: str) -> None:
    fill(club)
    with pytest.raises(IntegrityError, match=r"(emails|nicks)_pkey"):
        club.query(sql)
    agreed(club)
    with club.transaction() as tx:
        tx.query("UPDATE members SET points = 1")
        with pytest.raises(IntegrityError), tx.savepoint():
            tx.query(sql)
        tx.query("INSERT INTO members VALUES (500, 1, 'late', 'late')")
    agreed(club)
    assert club.query("SELECT count(*), sum(points) FROM members").one() == (21, 20)


UPSERT = "ON CONFLICT (user_id) DO UPDATE SET visits = users.visits + 1"


@pytest.mark.parametrize(
    ("sql", "logins"),
    [
        (f"INSERT INTO users VALUES (1, 'other'), (2, NULL), (30, 'new') {UPSERT}", {30: "new"}),
        (f"INSERT INTO users VALUES (1, 'u7'), (7, 'u1') {UPSERT} RETURNING *", {}),
        (f"INSERT INTO users AS u VALUES (1, 'x') {UPSERT.replace('users', 'u')} WHERE u.visits > 1", {}),
        (
            f"INSERT INTO users SELECT user_id + 10, login || '!' FROM users {UPSERT}",
            {n + 10: f"u{n}!" for n in range(10, 20)},
        ),
        (f"INSERT INTO users VALUES (40, NULL), (41, 'u%') {UPSERT}", {41: "u%"}),
    ],
)
def test_rows_that_are_updated_on_conflict_keep_their_reservations(
    club: Router, sql: str, logins: dict[int, str]
) -> None:
    before = {n: f"u{n}" for n in range(20)}
    club.query("INSERT INTO users VALUES " + ", ".join(f"({n}, '{login}')" for n, login in before.items()))
    for _ in range(2):
        club.query(sql)
        assert dict(club.query("SELECT user_id, login FROM users WHERE login IS NOT NULL").all()) == before | logins
        assert differing_reservations(club.engines, club.topology) == {}
        assert club.query("SELECT count(*) FROM logins").scalar() == len(before | logins)
        if "+ 10" in sql:
            break


@pytest.mark.parametrize(
    "rows", ["(50, 'u3')", "(50, 'new'), (51, 'u3'), (1, 'u1')", "(50, 'same'), (51, 'same')", "(1, 'u1'), (51, 'u1')"]
)
def test_rows_that_are_not_updated_on_conflict_need_a_free_value(club: Router, rows: str) -> None:
    club.query("INSERT INTO users VALUES (1, 'u1'), (3, 'u3')")
    with pytest.raises(IntegrityError, match="logins_pkey"):
        club.query(f"INSERT INTO users VALUES {rows} {UPSERT}")
    assert club.query("SELECT * FROM users ORDER BY 1").all() == [(1, "u1", 1), (3, "u3", 1)]
    assert differing_reservations(club.engines, club.topology) == {}


def test_without_the_count_a_value_would_be_there_twice(club: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "ENSURE", guarded.ENSURE.replace("IS NOT DISTINCT FROM", "IS DISTINCT FROM"))
    monkeypatch.setattr(guarded, "_WHY", "SELECT FROM {rows}")
    club.query("INSERT INTO users VALUES (1, 'u1'), (3, 'u3')")
    club.query(f"INSERT INTO users VALUES (50, 'u3') {UPSERT}")
    assert differing_reservations(club.engines, club.topology) == {"logins": (2, 3)}


def test_threads_that_upsert_the_same_rows(club: Router) -> None:
    """Each login is a user's own, whichever of the threads brought it."""
    print("seed 5")

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(15):
            users = sorted(choose.sample(range(12), 3))
            values = ", ".join(f"({user}, 'l{user + choose.choice([0, 0, 0, 1])}')" for user in users)
            with suppress(IntegrityError, CrossShardDeadlock):
                club.query(f"INSERT INTO users VALUES {values} {UPSERT}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert differing_reservations(club.engines, club.topology) == {}
    logins = [login for (login,) in club.query("SELECT login FROM users")]
    assert len(logins) == len(set(logins)) > 5


#: What RETURNING has to tell the old rows for.
BOTH = [
    "INSERT INTO users VALUES (1, 'one'), (2, NULL), (30, 'new') ON CONFLICT (user_id) DO UPDATE "
    "SET login = excluded.login",
    "INSERT INTO users AS u VALUES (1, 'u2'), (2, 'u1') ON CONFLICT (user_id) DO UPDATE SET login = excluded.login, "
    "visits = u.visits + 1 RETURNING u.*, 'RETURNING' AS word; -- RETURNING",
    "INSERT INTO users VALUES (1, 'x') ON CONFLICT (user_id) DO UPDATE SET login = 'y' WHERE users.visits > 1",
    "INSERT INTO users VALUES (1, 'x') ON CONFLICT (user_id) DO UPDATE SET login = excluded.login "
    "RETURNING login, JSON_VALUE('{\"a\": 1}', '$.a' RETURNING int) AS one",
    "WITH w AS (INSERT INTO users VALUES (1, 'x'), (50, 'y') ON CONFLICT (user_id) DO UPDATE SET login = 'x' || "
    "excluded.user_id RETURNING login) SELECT max(login), count(*) FROM w",
    "WITH w AS (MERGE INTO users u USING members m ON u.login = 'u' || m.member_id AND m.line = 1 WHEN MATCHED AND "
    "m.member_id < 3 THEN DELETE WHEN MATCHED THEN UPDATE SET login = m.email RETURNING u.login, m.email) "
    "SELECT login, email FROM w",
    "INSERT INTO users SELECT user_id + 1, login || '+' FROM users ON CONFLICT (user_id) DO UPDATE "
    "SET login = excluded.login",
    "INSERT INTO members VALUES (1, 1, 'new', NULL), (1, 2, 'newer', 'z') ON CONFLICT (member_id, line) "
    "DO UPDATE SET email = excluded.email, nick = NULL",
    "INSERT INTO members VALUES (1, 1, 'new', NULL) ON CONFLICT (member_id, line) DO UPDATE SET points = 9",
    "MERGE INTO users u USING members m ON u.user_id = m.member_id WHEN MATCHED AND m.line = 1 AND m.member_id < 5 "
    "THEN DELETE WHEN MATCHED THEN UPDATE SET login = m.email",
    "MERGE INTO users USING (VALUES ('u3', 'three'), ('new', 'n')) AS v(old, new) ON login = old WHEN MATCHED THEN "
    "UPDATE SET login = new WHEN NOT MATCHED THEN INSERT (user_id, login) VALUES (77, new) "
    "WHEN NOT MATCHED BY SOURCE AND user_id = 9 THEN DELETE RETURNING merge_action(), user_id",
    "MERGE INTO users u USING members m ON u.user_id = m.member_id + 1 WHEN MATCHED THEN UPDATE SET visits = 0",
]


def both_agree(router: Router) -> None:
    agreed(router)
    rows = sorted(router.query("SELECT login, user_id FROM users WHERE login IS NOT NULL"))
    assert sorted(router.query("SELECT login, user_id FROM logins")) == rows
    assert len({login for login, _ in rows}) == len(rows)


def fill_both(router: Router) -> None:
    if int(router.execute(1, "SELECT current_setting('server_version_num')").scalar_one()) < writes.RETURNS_BOTH:
        pytest.skip("RETURNING tells old rows since PostgreSQL 18")
    fill(router)
    router.query("INSERT INTO users SELECT n, 'u' || n FROM generate_series(0, 9) n")


@pytest.mark.parametrize("sql", BOTH)
def test_reservations_follow_rows_that_are_replaced(club: Router, sql: str) -> None:
    fill_both(club)
    before = club.query("SELECT user_id, login, visits FROM users ORDER BY 1").all()
    result: Any = club.query(sql)
    if "RETURNING" in sql:
        assert all(len(row) == len(result.keys()) in (2, 4) for row in result.all())
    if "WHERE users.visits" not in sql and "members VALUES" not in sql:
        assert club.query("SELECT user_id, login, visits FROM users ORDER BY 1").all() != before
    both_agree(club)
    with club.transaction() as tx:
        tx.query("UPDATE users SET login = login || '+'")
        with suppress(IntegrityError), tx.savepoint():
            tx.query(sql)
    both_agree(club)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users VALUES (1, 'u5') ON CONFLICT (user_id) DO UPDATE SET login = excluded.login",
        "INSERT INTO users VALUES (1, 'same'), (2, 'same') ON CONFLICT (user_id) DO UPDATE SET login = excluded.login",
        "MERGE INTO users u USING members m ON u.user_id = m.member_id AND u.user_id < 3 WHEN MATCHED THEN "
        "UPDATE SET login = 'same'",
        "MERGE INTO users USING (SELECT 1) AS v(one) ON false WHEN NOT MATCHED THEN INSERT (user_id, login) "
        "VALUES (one + 70, 'u5')",
    ],
)
def test_a_value_is_there_once_where_rows_are_replaced(club: Router, sql: str) -> None:
    fill_both(club)
    with pytest.raises(IntegrityError, match="logins_pkey"):
        club.query(sql)
    both_agree(club)
    assert club.query("SELECT count(*) FROM users WHERE login LIKE 'u%' AND visits = 1").scalar() == 10


def test_without_the_old_rows_their_reservations_would_stay(club: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_both(club)
    changes = guarded.Guarded._changes
    monkeypatch.setattr(guarded.Guarded, "_changes", lambda *given: ([], changes(*given)[1]))
    club.query("INSERT INTO users VALUES (1, 'one') ON CONFLICT (user_id) DO UPDATE SET login = excluded.login")
    with pytest.raises(AssertionError):
        both_agree(club)


def test_an_older_server_is_told_of(club: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "RETURNS_BOTH", 990000)
    for sql in (BOTH[0], BOTH[-2]):
        with pytest.raises(UnsupportedStatement, match=r"SP139.*users needs PostgreSQL 18"):
            club.query(sql)


def test_threads_that_replace_the_same_values(club: Router) -> None:
    fill_both(club)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(12):
            users, logins = sorted(choose.sample(range(12), 2)), choose.sample(range(9), 2)
            values = ", ".join(f"({user}, 'l{login}')" for user, login in zip(users, logins, strict=True))
            with suppress(IntegrityError, CrossShardDeadlock, OperationalError):
                club.query(
                    choose.choice(
                        [
                            f"INSERT INTO users VALUES {values} ON CONFLICT (user_id) DO UPDATE "
                            "SET login = excluded.login",
                            f"MERGE INTO users u USING (VALUES {values}) AS v(id, new) ON u.login = v.new "
                            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (user_id, login) VALUES (id, new)",
                            f"DELETE FROM users WHERE login = 'l{logins[0]}'",
                        ]
                    )
                )

    print("seeds 15 to 18")
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(15, 19)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    both_agree(club)


REFUSED = [
    "WITH gone AS (DELETE FROM members RETURNING *) SELECT * FROM gone, orders",
    "INSERT INTO emails VALUES ('free', 1)",
    "DELETE FROM emails",
    "UPDATE emails SET member_id = 3",
    "TRUNCATE emails",
    "TRUNCATE members",
    "MERGE INTO emails m USING orders o ON m.email = o.note WHEN MATCHED THEN DELETE",
]


def test_what_cannot_be_kept_is_refused(club: Router) -> None:
    fill(club)
    for sql in REFUSED:
        with pytest.raises(UnsupportedStatement, match="SP139"):
            club.query(sql)
    ours = ("INSERT INTO members VALUES (5, 9)", "DELETE FROM members", "UPDATE members SET email = 'x'")
    for sql in (*REFUSED[1:4], *ours):
        if sql != ours[0]:
            with pytest.raises(UnsupportedStatement, match="SP139"):
                club.execute(5, sql)
        with pytest.raises(UnsupportedStatement, match="SP139"), club.connect(5) as connection:
            connection.exec_driver_sql(sql)
    with pytest.raises(UnsupportedStatement, match="SP139"):
        club.copy_into("emails", [])
    club.execute(5, "UPDATE members SET points = 7 WHERE member_id = 5")  # nothing that others must know of
    agreed(club)


BY_KEY = [
    "INSERT INTO members VALUES (5, 9, 'new', 'nine')",
    "INSERT INTO members (member_id, line, email) VALUES (:key, 8, 'a'), (5, 9, 'b') RETURNING email",
    "INSERT INTO members VALUES (5, 9, 'm7@x')",
    "DELETE FROM members WHERE member_id = :key",
    "DELETE FROM members WHERE member_id = 5 AND nick = 'n5' RETURNING *",
    "UPDATE members SET email = 'other', nick = NULL WHERE member_id = :key",
    "UPDATE members SET email = 'm7@x' WHERE member_id = 5",
]


@pytest.mark.parametrize("sql", BY_KEY)
def test_statements_on_one_partition(club: Router, sql: str) -> None:
    fill(club)
    given = {"key": 5} if ":key" in sql else {}
    if "m7@x" in sql:
        with pytest.raises(IntegrityError, match="emails_pkey"):
            club.execute(5, sql, given)
    else:
        assert club.execute(5, sql, given).rowcount >= 1  # type: ignore[attr-defined]
    agreed(club)
    with club.transaction() as tx:
        tx.query("DELETE FROM members WHERE member_id = 5")
        tx.query("INSERT INTO members VALUES (5, 1, 'm5@x', 'n5')")
        if "m7@x" not in sql:
            tx.execute(5, sql, given)
    agreed(club)


ELSEWHERE = [
    ("DELETE FROM members WHERE nick = 'n5'", UnsupportedStatement),
    ("DELETE FROM members WHERE member_id = {other}", UnsupportedStatement),
    ("UPDATE members SET email = 'x' WHERE member_id IN (5, {other})", UnsupportedStatement),
    ("UPDATE members SET member_id = 5 WHERE member_id = 5", UnsupportedStatement),
    ("INSERT INTO members VALUES ({other}, 2)", UnsupportedStatement),
    ("INSERT INTO members SELECT member_id, 3 FROM members WHERE member_id = 5", None),
    ("INSERT INTO members SELECT 5, 3", UnsupportedStatement),
]


@pytest.mark.parametrize(("sql", "error"), ELSEWHERE)
def test_statements_on_one_partition_that_are_of_others(club: Router, sql: str, error: type[Exception] | None) -> None:
    """By other partitions than the key's nothing may be written, though `query` would."""
    other = next(key for key in range(20) if club.partition_of(key) != club.partition_of(5))
    sql = sql.format(other=other)
    fill(club)
    if error is None:
        with suppress(IntegrityError):  # the default of email
            club.execute(5, sql)
    else:
        with pytest.raises(error, match="SP139"):
            club.execute(5, sql)
        with pytest.raises(error, match="SP139"), club.transaction() as tx:
            tx.execute(5, sql)
        assert club.query("SELECT count(*) FROM members").scalar() == 20
    with pytest.raises(UnsupportedStatement, match="SP139"):
        club.execute_by_id(1, "DELETE FROM members WHERE member_id = 5")
    agreed(club)


def test_finding_a_key(club: Router) -> None:
    fill(club)
    assert club.find_key("members", email="m5@x") == 5 and club.find_key("members", nick="absent") is None
    with pytest.raises(ValueError, match="a unique column of 'members'"):
        club.find_key("members", points=3)
    with pytest.raises(ValueError, match="it has none"):
        club.find_key("orders", total=3)
    with pytest.raises(UnknownTable):
        club.find_key("absent", email="x")


def test_the_orm_keeps_them_too(club: Router) -> None:
    class Base(DeclarativeBase):
        pass

    class Member(Base):
        __tablename__ = "members"
        member_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
        line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        email: Mapped[str | None] = mapped_column(String)
        nick: Mapped[str | None] = mapped_column(String)

    with club.session() as session:
        session.add_all(Member(member_id=n, line=1, email=f"o{n}", nick=None) for n in range(10))
        session.commit()
        session.get_one(Member, (3, 1)).email = "three"
        session.delete(session.get_one(Member, (4, 1)))
        session.commit()
        session.add(Member(member_id=77, line=1, email="three"))
        with pytest.raises(IntegrityError):
            session.commit()
    assert club.find_key("members", email="three") == 3
    agreed(club)


def test_threads_that_want_the_same_values(club: Router) -> None:
    won: Counter[str] = Counter()

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for number in range(25):
            email = f"e{choose.randrange(12)}"
            member = seed * 100 + number

            def take(tx: Any, email: str = email, member: int = member) -> None:
                tx.query("INSERT INTO members (member_id, line, email) VALUES (:m, 1, :e)", {"m": member, "e": email})

            try:
                club.run(take, retries=30)
                won[email] += 1
                if choose.random() < 0.5:
                    club.run(
                        lambda tx, email=email: tx.query("DELETE FROM members WHERE email = :e", {"e": email}),
                        retries=30,
                    )
                    won[email] -= 1
            except IntegrityError:
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    agreed(club)
    assert max(won.values()) == 1
    assert club.query("SELECT count(*) FROM members").scalar_one() == sum(won.values())


def test_a_move_takes_them_along(club: Router) -> None:
    fill(club)
    partition = club.partition_of("m5@x", "emails")
    source = club.shard_map.owner(partition).name
    target = next(name for name in club.shard_map.shards if name != source)
    move_partition(club, partition.id, to=target)
    with pytest.raises(IntegrityError):
        club.query("INSERT INTO members (member_id, line, email) VALUES (100, 1, 'm5@x')")
    club.query("UPDATE members SET email = 'moved' WHERE member_id = 5")
    agreed(club)
    move_partition(club, partition.id, to=source)


def test_another_router_knows_of_them(club: Router, config: Config) -> None:
    fill(club)
    with Router(config, listen=False) as other:
        with pytest.raises(IntegrityError):
            other.query("INSERT INTO members (member_id, line, email) VALUES (100, 1, 'm5@x')")
        assert other.find_key("members", email="m6@x") == 6


# -- planted faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["_DELETE", "_INSERT"])
def test_a_forgotten_reservation_is_noticed(club: Router, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    fill(club)
    real = guarded.reservation_steps

    def forgetful(reservation: Any, column: Any, entries: Any, words: str, topology: Any) -> Any:
        return [] if words == getattr(guarded, fault) else real(reservation, column, entries, words, topology)

    monkeypatch.setattr(guarded, "reservation_steps", forgetful)
    club.query("UPDATE members SET email = 'lost' WHERE member_id = 5")
    monkeypatch.undo()
    assert differing_reservations(club.engines, club.topology) == {"emails": (21 if fault == "_DELETE" else 19, 20)}
    if fault == "_INSERT":
        with pytest.raises(SchemaDrift, match="shardpool doctor"):
            club.query("DELETE FROM members WHERE member_id = 5")
        assert club.query("SELECT count(*) FROM members").scalar_one() == 20


def test_a_write_that_goes_around_is_noticed(club: Router) -> None:
    fill(club)
    with club.shard(club.shard_of(5).name).engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE {club.partition_of(5).schema}.members SET email = 'raw' WHERE member_id = 5"
        )
    assert differing_reservations(club.engines, club.topology) == {"emails": (20, 20)}


def test_without_reservations_a_value_is_there_twice(club: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(club)
    monkeypatch.setattr(writes, "_with_reservations", lambda transaction, guarded, result, steps: result)
    club.query("INSERT INTO members (member_id, line, email) VALUES (100, 1, 'm5@x')")
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        agreed(club)


def test_the_tables_of_reservations_go_with_their_table(club: Router) -> None:
    club.create_schema(
        "CREATE TABLE seats (hall int NOT NULL, seat int NOT NULL, ticket uuid, PRIMARY KEY (hall, seat)); "
        "CREATE TABLE tickets (ticket uuid PRIMARY KEY, hall int NOT NULL)",
        {"seats": Sharded("hall", {"ticket": "tickets"}), "tickets": Sharded("ticket")},
    )
    club.query("INSERT INTO seats SELECT n, 1, gen_random_uuid() FROM generate_series(1, 9) n")
    ticket = club.query("SELECT ticket FROM seats WHERE hall = 4").scalar_one()
    assert club.find_key("seats", ticket=ticket) == 4
    club.create_schema("DROP TABLE seats, tickets")
    club.create_schema(
        "CREATE TABLE later (id bigint PRIMARY KEY, code text)", {"later": Sharded("id", {"code": "codes"})}
    )
    with pytest.raises(UnsupportedStatement, match="its table codes was not created"):
        club.query("INSERT INTO later VALUES (1, 'a')")
    assert club.query("SELECT count(*) FROM later").scalar_one() == 0
    club.create_schema("CREATE TABLE codes (code text PRIMARY KEY, id bigint NOT NULL)", {"codes": Sharded("code")})
    club.query("INSERT INTO later VALUES (1, 'a')")
    assert club.find_key("later", code="a") == 1
