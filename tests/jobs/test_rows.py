"""From records to Python rows and Arrow tables, and back: many at once as one by one."""

from __future__ import annotations

import datetime
import random
from decimal import Decimal
from typing import Any

import pytest

from shardpool.bulk.arrow import from_arrow, to_arrow
from shardpool.bulk.json_lines import json_rows
from shardpool.bulk.python_rows import python_rows
from shardpool.bulk.rows import RowWriter
from shardpool.bulk.values import NULL, to_field
from shardpool.errors import BadRow
from shardpool.topology.tables import Column, Table

pa = pytest.importorskip("pyarrow")
COLUMNS = (
    *(Column("id", "bigint"), Column("name", "text"), Column("amount", "numeric(12,2)"), Column("born", "date")),
    *(Column("seen", "timestamp without time zone"), Column("fine", "boolean"), Column("extra", "jsonb")),
)
NAMES = [column.name for column in COLUMNS]
PLAIN = [b"1", b"Anna", b"1.50", b"1970-01-02", b"2024-01-01 10:00:00", b"t", b'{"a": [1]}']
AWKWARD = [b"-2", to_field("tab\tline\nback\\slash \\N ö"), *[NULL] * 4, to_field('{"a": "\\\\ \\n"}')]
EMPTY = [b"3", b"", *[NULL] * 5]


@pytest.mark.parametrize("rows", [[PLAIN], [AWKWARD], [EMPTY], [PLAIN, AWKWARD, EMPTY, PLAIN], []])
def test_python_rows(rows: list[list[bytes]]) -> None:
    records = [b"\t".join(row) for row in rows]
    found = python_rows(COLUMNS, records)
    assert found == [row for record in records for row in python_rows(COLUMNS, [record])]
    writer = RowWriter(Table("t", COLUMNS), NAMES, [0])
    assert python_rows(COLUMNS, [writer.record(row) for row in found]) == found
    assert [it["name"] for it in found if it["id"] == -2] == ["tab\tline\nback\\slash \\N ö"] * (AWKWARD in rows)


def test_python_rows_of_any_names() -> None:
    names = ["it's", 'a "name"', "{x}", "v0", "back\\slash", "lambda", "ö\n"]
    columns = [Column(name, "bigint") for name in names]
    assert python_rows(columns, [b"\t".join(b"%d" % at for at in range(len(names)))]) == [
        {name: at for at, name in enumerate(names)}
    ]


LARGE = ['{"a": 0.12345678901234567890}', "[1e400]", '[{"b": 1, "c": 2, "b": 3}]']
JSON = ["null", "true", '"x"', '"12"', "2.50", "{}", '{"a": [1, 2.5, null]}', *LARGE]


@pytest.mark.parametrize("type_", ["json", "jsonb"])
def test_json_comes_back_as_it_was(type_: str) -> None:
    """JSON's null is not NULL, a string is not its contents, no digit of a number is lost, and no key."""
    columns = (Column("j", type_),)
    records = [text.encode() for text in JSON]
    found = python_rows(columns, [*records, NULL])
    assert [row["j"] for row in found[-6:]] == [{}, {"a": [1, 2.5, None]}, *LARGE, None]
    assert RowWriter(Table("t", columns), ["j"], [0]).records(found) == [*records, NULL]


def test_json_lines_keep_the_digits_of_json() -> None:
    fields = [b'{"a":\\n 0.12345678901234567890,\\r"b": "\\\\n"}', *[NULL] * 2]
    (line,) = json_rows([Column("j", "json"), Column("k", "jsonb"), Column("l", "json")], [b"\t".join(fields)])
    assert line == '{"j": {"a":  0.12345678901234567890, "b": "\\n"}, "k": null, "l": null}'


def test_a_record_of_other_columns_is_noticed() -> None:
    with pytest.raises(ValueError, match="2 records of 7 columns have 15 fields"):
        python_rows(COLUMNS, [b"\t".join(PLAIN), b"\t".join([*PLAIN, b"more"])])


@pytest.mark.parametrize("rows", [[PLAIN], [AWKWARD], [EMPTY], [PLAIN, AWKWARD, EMPTY], []])
def test_arrow_there_and_back(rows: list[list[bytes]]) -> None:
    """Of the columns whose texts are those of PostgreSQL."""
    taken = COLUMNS[:4]
    records = [b"\t".join(row[:4]) for row in rows]
    table = to_arrow(taken, records)
    assert from_arrow(table) == records
    named = table.set_column(1, "name", table.column("name").dictionary_encode())
    assert from_arrow(named) == records


@pytest.mark.parametrize(
    ("value", "type_"),
    [(True, pa.bool_()), (1.5, pa.float64()), (b"\x00", pa.binary()), ([1], pa.list_(pa.int64()))],
)
def test_other_arrow_types_go_by_python(value: Any, type_: Any) -> None:
    assert from_arrow(pa.table({"a": pa.array([value], type_)})) is None


def test_times_of_arrow_are_read_by_postgresql_alike() -> None:
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)
    table = pa.table({"at": pa.array([moment, None], pa.timestamp("us", tz="UTC"))})
    assert from_arrow(table) == [b"2024-02-03 04:05:06.000789Z", NULL]


VALUES: tuple[Any, ...] = (
    *(
        None,
        1,
        -(2**70),
        True,
        1.5,
        float("nan"),
        Decimal("1.50"),
        "plain",
        "",
        "tab\tline\n\r\\",
        "\\N",
        "ö",
        b"\0\xff",
    ),
    *(datetime.date(2024, 2, 29), datetime.datetime(1, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1, 2, 3)),
    *({"a": ["x\ty"]}, [1, None, 'q"\\']),
)


def test_many_rows_are_written_as_one_by_one() -> None:
    """Rows whose columns have values of one type, and of several; with escapes, and without."""
    choose = random.Random(11)
    for width in (1, 2, 5, 7):
        names = NAMES[:width]
        writer = RowWriter(Table("t", COLUMNS), names, [0])
        for kinds in (1, 3, len(VALUES)):
            for _ in range(60):
                pools = [choose.sample(VALUES, kinds) for _ in names]
                rows = [dict(zip(names, map(choose.choice, pools), strict=True)) for _ in range(choose.randrange(4))]
                assert writer.records(rows) == [writer.record(row) for row in rows], rows


def test_rows_that_are_not_alike_are_looked_at_one_by_one() -> None:
    writer = RowWriter(Table("t", COLUMNS), ["id", "name"], [0])
    assert writer.records([{"id": 1, "name": "a"}, (2, "b"), {"name": None, "id": 3}]) == [b"1\ta", b"2\tb", b"3\t\\N"]
    bad: list[Any] = [{"id": 2}, {"id": 2, "name": "b", "more": 3}, {"id": 2, "other": 1}, {"id": 2, "name": "\0"}]
    for row in [*bad, {"id": object(), "name": "b"}]:
        with pytest.raises(BadRow, match=r"row|line|2"):
            writer.records([{"id": 1, "name": "a"}, row])


@pytest.mark.parametrize("value", ["\0", "\ud800"])
def test_what_cannot_be_written_is_refused(value: str) -> None:
    writer = RowWriter(Table("t", COLUMNS), ["id", "name"], [0])
    assert writer.record((1, "a")) == b"1\ta"
    assert writer.record((Decimal(2), "a\tb")) == b"2\ta\\tb"
    with pytest.raises(BadRow):
        writer.record((1, value))
