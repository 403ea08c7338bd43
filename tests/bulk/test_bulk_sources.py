"""Where rows come from: suffixes, gzip, file objects, headers, Python values; and what is said on the way."""

from __future__ import annotations

import collections
import datetime
import gzip
import io
import os
import subprocess
import sys
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shardpool.bulk import LoadProgress, progress, rows
from shardpool.errors import BadRow, LoadError, MissingPartitionKey, UnknownTable
from tests.bulk.bulk_tools import Shop

CSV = "id,name,note\r\n" + "".join(f'{number},n{number},"a\nb"\r\n' for number in range(100))


def names_of(shop: Shop) -> set[str]:
    return {row[1] for found in shop.partition_rows("item").values() for row in found}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.csv", "id,name\n1,a\n2,b\n"),
        ("items.CSV", 'name,"id"\na,1\nb,2\n'),
        ("items.tbl", "1|a|1.5|t|x|\n2|b|2.5|f|y|\n"),
        ("other.tbl", "1|a|1.5|t|x\n2|b|2.5|f|\n"),
        ("last-is-empty.tbl", "1|a|1.5|t||\r\n2|b|2.5|f|y|\r\n"),
        ("items.tsv", "1\ta\t1.5\t\\N\tx\n2\tb\t\\N\tf\t\\N\n"),
        ("items.txt", "1\ta\t1.5\t\\N\tx\n2\tb\t\\N\tf\t\\N"),
        ("items.copy", "1\ta\t1.5\t\\N\tx\n2\tb\t\\N\tf\t\\N\n\\.\n"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_suffix_tells_the_format(shop: Shop, tmp_path: Path, name: str, content: str, zipped: bool) -> None:
    path = tmp_path / (name + ".gz" if zipped else name)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    result = shop.load("item", path)
    assert (result.rows, names_of(shop)) == (2, {"a", "b"})


def test_trailing_delimiters_in_a_header_and_after_quotes(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "items.tbl"
    path.write_text('id|name|\n1|"a|\nb"|\n2|"b|"|\n3|c|\n')
    shop.load("item", path, header=True)
    assert names_of(shop) == {"a|\nb", "b|", "c"}


def test_file_objects_stay_open(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(CSV, newline="")
    with path.open("rb") as binary, path.open(newline="", encoding="utf-8") as text:
        assert shop.load("item", binary).rows == shop.load("item", text, format="csv").rows == 100
        assert not binary.closed and not text.closed
    assert len(shop.rows("item")) == 200
    with pytest.raises(LoadError, match="read\\(\\) returned int"):
        shop.load("item", type("Odd", (), {"read": lambda self, size: 1})(), format="csv")
    with pytest.raises(LoadError, match="not valid Unicode"):
        shop.load("item", io.StringIO("id\n\udc00\n"), format="csv")


def test_a_pipe(shop: Shop, tmp_path: Path) -> None:
    fifo = tmp_path / "items.csv"
    os.mkfifo(fifo)
    with subprocess.Popen([sys.executable, "-c", f"open({str(fifo)!r}, 'w', newline='').write({CSV!r})"]):
        result = shop.load("item", fifo)
    assert result.rows == 100


def test_damaged_gzip(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "items.csv.gz"
    whole = gzip.compress(CSV.encode() * 100)
    for content in (whole[:-20], b"id,name\n", whole[:50] + b"\xff" * 50 + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(LoadError, match="gzip"):
            shop.load("item", path)
    assert shop.rows("item") == []


def test_a_missing_file_is_an_os_error(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shop.load("item", tmp_path / "no.csv")


def test_nothing_to_load(shop: Shop) -> None:
    for content in ("", "id,name\n", "id,name"):
        assert shop.load("item", io.StringIO(content), format="csv").rows == 0
    assert shop.load("item", []).rows == 0
    assert shop.decisions() == []


@pytest.mark.parametrize(
    ("header", "error", "reason"),
    [
        ("id,nam,note", LoadError, "no column 'nam'.*its columns: id, name, price"),
        ("name,note", MissingPartitionKey, "'id' of table 'item'"),
        ("id,name,id", LoadError, "'id' is named twice"),
        ("id,", LoadError, "no column ''"),
        ("ID,name", LoadError, "no column 'ID'"),
        ("id,\xff", LoadError, "header is not valid UTF-8"),
        ('id,"name', BadRow, "line 1: unterminated"),
    ],
)
def test_header_mistakes(shop: Shop, header: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        shop.load("item", io.BytesIO(header.encode("latin-1") + b"\n1,2,3\n"), format="csv")
    assert shop.rows("item") == []


def test_columns_instead_of_a_header(shop: Shop) -> None:
    shop.load("item", io.StringIO("a,1\n"), format="csv", header=False, columns=["name", "id"])
    shop.load("item", io.StringIO("what,ever\nb,2\n"), format="csv", columns=["name", "id"])
    shop.load("item", io.StringIO("name|id\nc|3\n"), format="text", delimiter="|", header=True)
    assert names_of(shop) == {"a", "b", "c"}
    with pytest.raises(MissingPartitionKey):
        shop.load("item", [("a",)], columns=["name"])


def test_arguments(shop: Shop) -> None:
    with pytest.raises(UnknownTable):
        shop.load("items", [])
    with pytest.raises(LoadError, match="batch_bytes"):
        shop.load("item", [], batch_bytes=0)
    with pytest.raises(LoadError, match="for files"):
        shop.load("item", [], format="csv")
    with pytest.raises(LoadError, match="format= is needed"):
        shop.load("item", io.StringIO("id\n1\n"))


def test_a_reference_table_is_loaded_on_every_shard(shop: Shop) -> None:
    result = shop.load("country", io.StringIO('code,name\nde,Germany\nfr,"La\nFrance"\n'), format="csv", batch_bytes=1)
    assert (result.rows, result.partitions) == (2, {})
    for shard in shop.urls:
        assert sorted(shop.rows_on(shard, "SELECT * FROM shop.country")) == [("de", "Germany"), ("fr", "La\nFrance")]


def test_what_is_reported(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id\n" + "".join(f"{number}\n" for number in range(1000)))
    seen: list[LoadProgress] = []
    result = shop.load("item", path, progress=seen.append)
    size = path.stat().st_size
    assert [(step.rows, step.bytes, step.total_bytes) for step in seen] == [(1000, size, size)]
    assert (result.rows, result.bytes) == (1000, size - len("id\n"))
    assert 0 < seen[0].seconds <= result.seconds < 60
    assert sum(result.partitions.values()) == 1000
    assert set(result.partitions) == {0, 1, 2, 3}

    monkeypatch.setattr(progress, "INTERVAL", 0)
    monkeypatch.setattr(rows, "BLOCK_ROWS", 300)
    seen.clear()
    shop.load("item", ((number,) for number in range(1000)), columns=["id"], progress=seen.append)
    assert [(step.rows, step.total_bytes) for step in seen] == [(n, None) for n in (300, 600, 900, 1000, 1000)]


def test_a_progress_that_raises_ends_the_load(shop: Shop) -> None:
    def stop(step: LoadProgress) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        shop.load("item", [{"id": 1}, {"id": 2}], progress=stop)
    assert shop.rows("item") == []


def test_values(shop: Shop) -> None:
    """Every Python type comes back from the server as the value that went in."""
    utc = datetime.UTC
    row = {
        "id": 2**62,
        "b": b"\x00\\\xff",
        "u": uuid.UUID(int=5),
        "ok": True,
        "at": datetime.datetime(1, 1, 1, 2, 3, 4, 5, tzinfo=utc),
        "j": {"a": [1, None, 'é"\\\n'], "b": 1.5},
        "tags": ["", 'say "hi"', "\\", "{a,b}", "NULL", None, "tab\there"],
        "grid": [[1, 2], [3, None]],
        "f": 0.1,
        "gap": datetime.timedelta(days=-3, microseconds=7),
        "t": datetime.time(1, 2, 3, 4),
    }
    shop.load("things", [row])
    (found,) = [row for found in shop.partition_rows("things").values() for row in found]
    assert tuple(bytes(value) if isinstance(value, memoryview) else value for value in found) == tuple(row.values())


class Whole(int):
    """A subclass of a type that can be written."""


@pytest.mark.parametrize(
    ("table", "row", "expected"),
    [
        ("things", {"id": Whole(7), "j": [1, 2]}, (7, [1, 2])),
        ("things", {"id": 7, "j": True}, (7, True)),
        ("things", {"id": 7, "j": '{"written": "by hand"}'}, (7, {"written": "by hand"})),
        ("things", collections.OrderedDict(id=7, j=None), (7, None)),
    ],
)
def test_json_and_subclasses(shop: Shop, table: str, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    shop.load(table, iter([row]))
    (found,) = [row for found in shop.partition_rows(table).values() for row in found]
    assert (found[0], found[5]) == expected


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((1,), "1 values for the 5 columns"),
        ("abc", "not a str"),
        (5, "not a int"),
        ({"id": 1}, "column name is missing"),
        (("1", None, None, None, None), "'1' is a str, expected int"),
        ((True, None, None, None, None), "True is a bool"),
        ((None, None, None, None, None), "partition key id is NULL"),
        ((1, "a\0b", None, None, None), "NUL"),
        ((1, "\udc00", None, None, None), "Unicode"),
        ((1, object(), None, None, None), "type object cannot be written"),
        ((1, (1, 2), None, None, None), "type tuple cannot be written"),
        ((1, {"x": Decimal(1)}, None, None, None), "not JSON"),
        ((1, {"x": float("nan")}, None, None, None), "not JSON"),
        ((1, "a", "b", None, None), "column price: invalid input syntax for type numeric"),
    ],
)
def test_a_bad_row_is_named_by_its_number(shop: Shop, bad: Any, reason: str) -> None:
    good = [(number, "a", Decimal(1), True, None) for number in range(1, 30)]
    with pytest.raises(BadRow, match=reason.replace("(", "\\(")) as caught:
        shop.load("item", [*good, bad, *good], batch_bytes=100)
    assert (caught.value.source, caught.value.line) == ("<rows>", 30)
    assert shop.rows("item") == []


def test_mappings_have_the_same_columns_all_along(shop: Shop) -> None:
    for second, reason in (({"id": 2}, "column name is missing"), ({"id": 2, "nam": 1}, "unexpected column nam")):
        with pytest.raises(BadRow, match=reason) as caught:
            shop.load("item", [{"id": 1, "name": "a"}, second])
        assert caught.value.line == 2
    with pytest.raises(LoadError, match="no column 'nam'"):
        shop.load("item", [{"id": 1, "nam": "a"}])
    with pytest.raises(LoadError, match="must be str"):
        shop.load("item", [{1: 1}])


def test_an_error_of_the_users_iterable_is_the_users(shop: Shop) -> None:
    def rows() -> Any:
        yield (1, None, None, None, None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shop.load("item", rows())
    assert threading.active_count() < 10
    assert shop.rows("item") == []
