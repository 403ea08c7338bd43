"""A row that the server refuses is named by its line in the source; nothing of the load is left."""

from __future__ import annotations

import io
import random

import pytest

from shardpool.bulk import records
from shardpool.bulk.translate import _place
from shardpool.errors import BadRow, LoadError
from tests.bulk.bulk_tools import Shop


def csv_rows(rng: random.Random, count: int) -> list[str]:
    """Rows of item, many of them over several lines."""
    notes = ["", "x", '"a\nb"', '"\r\n\n"', '"say ""hi"""', '"a\rb"', '""']
    return [f"{rng.randrange(10**6)},n{number},1.5,t,{rng.choice(notes)}" for number in range(count)]


DAMAGE = {
    "value": (lambda row: row.replace(",1.5,", ",1x5,"), 'column price: invalid input syntax for type numeric: "1x5"'),
    "too long": (lambda row: row.replace(",1.5,", ",123456789.5,"), "numeric field overflow"),
    "missing": (lambda row: row.split(",")[0], "missing data for column"),
    "extra": (lambda row: row + ",1", "extra data after last expected column"),
    "encoding": (lambda row: row.replace(",n", ",\udcff"), "invalid byte sequence"),
    "key": (lambda row: "1O" + row, 'column id: "1O.*is not a decimal integer'),
    "key range": (lambda row: "99999999999999999" + row, "within 64 bits"),
    "no key": (lambda row: row[row.index(",") :], "partition key id is NULL"),
    "empty key, null": (lambda row: '""' + row[row.index(",") :], 'column id: "" is not a decimal integer'),
    "null key": (lambda row: "NULL" + row[row.index(",") :], "partition key id is NULL"),
    "empty line": (lambda row: "", "empty line"),
    "NUL": (lambda row: row + "\0", "0x00"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("seed", range(4))
def test_the_line_of_a_bad_row_in_csv(shop: Shop, kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    change, reason = DAMAGE[kind]
    rng = random.Random(f"{kind} {seed}")
    monkeypatch.setattr(records, "CHUNK_BYTES", rng.choice([100, 5000, 1 << 20]))
    rows = csv_rows(rng, 300)
    at = rng.choice([0, 1, 299, rng.randrange(300)])
    line = 2 + sum(row.count("\n") + 1 for row in rows[:at])
    rows[at] = change(rows[at])
    data = "\n".join(["id,name,price,sold,note", *rows, ""]).encode(errors="surrogateescape")
    with pytest.raises(BadRow, match=reason) as caught:
        source = io.BytesIO(data)
        source.name = "items.csv"
        shop.load("item", source, batch_bytes=rng.choice([1, 400, 1 << 20]), null="NULL" if "null" in kind else None)
    assert (caught.value.source, caught.value.line) == ("items.csv", line)
    assert shop.rows("item") == []


@pytest.mark.parametrize("seed", range(4))
def test_the_line_of_a_bad_row_in_text(shop: Shop, seed: int) -> None:
    rng = random.Random(seed)
    notes = ["", "\\N", "a\\\nb", "\\\\", "\\\r"]
    rows = [f"{rng.randrange(10**6)}\tn\t1.5\tt\t{rng.choice(notes)}" for _ in range(200)]
    at = rng.randrange(200)
    rows[at] = rows[at].replace("1.5", "x")
    with pytest.raises(BadRow, match="column price") as caught:
        shop.load("item", io.StringIO("\n".join(rows)), format="text", batch_bytes=rng.choice([1, 400, 1 << 20]))
    assert caught.value.line == 1 + sum(row.count("\n") + 1 for row in rows[:at])


def test_the_first_record_of_a_batch_counts_otherwise(shop: Shop) -> None:
    """COPY counts carriage returns, not newlines, in the quotes of its first record."""
    rows = [f'{number},"\n\n\r\r\r"' for number in range(50)] + ["7,x,y"]
    with pytest.raises(BadRow) as caught:
        shop.load("item", io.BytesIO("\n".join(["id,name", *rows]).encode()), format="csv")
    assert caught.value.line == 2 + 50 * 3


@pytest.mark.parametrize("batch_bytes", [1, 100, 1 << 20])
def test_constraints_name_the_line_too(shop: Shop, batch_bytes: int) -> None:
    rows = [(f"note {number}", number + 100, number % 7) for number in range(100)]
    for bad, reason in (
        (("again", 150, 1), "duplicate key value.*already exists"),
        (("thirteen", 13, 1), "violates check constraint"),
        (("null", None, 1), None),
    ):
        if reason is None:
            assert shop.load("late", [bad]).rows == 1
            continue
        with pytest.raises(BadRow, match=reason) as caught:
            shop.load("late", [*rows, bad, *[(None, number + 500, 1) for number in range(40)]], batch_bytes=batch_bytes)
        assert caught.value.line == 101
    assert len(shop.rows("late")) == 1


def test_a_foreign_key_names_the_lines_of_its_batch(shop: Shop) -> None:
    for placement in shop.topology.shard_map.placements:
        schema = placement.partition.schema
        shop.execute(placement.shard, f"CREATE TABLE {schema}.one (k text PRIMARY KEY)")
        shop.execute(
            placement.shard, f"ALTER TABLE {schema}.single ADD CONSTRAINT fk FOREIGN KEY (k) REFERENCES {schema}.one"
        )
    try:
        with pytest.raises(LoadError, match=r"a row within lines 2 to 2: .*foreign key.*\(k\)=\(x\) is not present"):
            shop.load("single", io.StringIO("k\nx\n"), format="csv")
    finally:
        for placement in shop.topology.shard_map.placements:
            schema = placement.partition.schema
            shop.execute(placement.shard, f"ALTER TABLE {schema}.single DROP CONSTRAINT fk; DROP TABLE {schema}.one")


def test_the_first_cause_wins(shop: Shop) -> None:
    """A bad row on one shard, while the other still has a full queue."""
    other = [(shop.key_on("s1", number * 20), "x" * 100) for number in range(500)]
    bad = (shop.key_on("s0"), "x" * 100)
    rows = [(*row, None) for row in other[:250]] + [(*bad, float("nan"))] + [(*row, None) for row in other[250:]]
    with pytest.raises(BadRow, match="column sold") as caught:
        shop.load("item", rows, columns=["id", "name", "sold"], batch_bytes=1)
    assert caught.value.line == 251


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ('COPY item, line 12, column price: "x"', (12, "price")),
        ('COPY item, line 12: "1,2"', (12, "")),
        ("COPY item, line 12, column id: null input", (12, "id")),
        ("PL/pgSQL function f() line 3 at RAISE\nCOPY item, line 7", (7, "")),
        ("COPY item, Zeile 12, Spalte price: »x«", (12, "price")),
        ("COPY item, ligne 12, colonne price : « x »", (12, "price")),
        ("SQL statement", None),
        ("", None),
    ],
)
def test_contexts(context: str, expected: tuple[int, str] | None) -> None:
    assert _place(context, "item") == expected
