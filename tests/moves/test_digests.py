"""The digests by which copies are compared: no difference of rows escapes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardpool.moves import layout, verify
from tests.moves.move_tools import Place


@pytest.mark.parametrize("binary", [True, False])
def test_any_difference_is_seen(place: Place, binary: bool) -> None:
    """Also by the binary form of columns, of every type that it is taken of; a column may have any name."""
    one = {
        "bool": ("true", "false"),
        "bytea": ("'\\x00'", "'\\x0000'"),
        "bigint": ("1", "4294967296"),
        "smallint": ("1", "2"),
        "int": ("0", "NULL"),
        "text": ("''", "NULL"),
        "oid": ("1", "2"),
        "json": ("'{\"a\": 1}'", "'{\"a\":1}'"),
        "real": ("0", "'-0'"),
        "float8": ("1e-300", "1.0000000000000002e-300"),
        "char(3)": ("'a'", "'b'"),
        "varchar": ("'a'", "'a '"),
        "date": ("'infinity'", "'-infinity'"),
        "time": ("'00:00'", "'24:00'"),
        "timestamp": ("'2024-01-01'", "'2024-01-01 00:00:00.000001'"),
        "timestamptz": ("'2024-01-01'", "'infinity'"),
        "interval": ("'1 day'", "'24 hours'"),
        "timetz": ("'12:00+01'", "'11:00+00'"),
        "bit(2)": ("B'01'", "B'10'"),
        "varbit": ("B'0'", "B'00'"),
        "numeric": ("1.0", "1.00"),
        "uuid": ("'00000000-0000-0000-0000-000000000001'", "NULL"),
        "jsonb": ("'1.0'", "'1.00'"),
        "inet": ("'10.0.0.1/8'", "'10.0.0.1/9'"),
        "cidr": ("'10.0.0.0/8'", "'10.0.0.0/9'"),
        "macaddr": ("'00:00:00:00:00:01'", "'00:00:00:00:00:02'"),
    }
    with place.session("s0") as cursor:
        cursor.execute("BEGIN; CREATE SCHEMA kinds; SET LOCAL search_path TO kinds")
        for number, (kind, values) in enumerate(one.items()):
            cursor.execute(f"CREATE TABLE t{number} (r {kind}, n int)")
            (table,) = (it for it in layout.read_layout(cursor.connection, "kinds") if it.name == f"t{number}")
            assert table.hashed, kind
            found = []
            for first, second in (values, values[::-1], (values[0], values[0])):
                cursor.execute(f"TRUNCATE t{number}; INSERT INTO t{number} VALUES ({first}, 1), ({second}, 2)")
                cursor.execute(verify.digest("kinds", table if binary else replace(table, hashed=())))
                found.append(cursor.fetchone()[1:])
            assert len(set(found)) == 3, kind
        cursor.execute('CREATE COLLATION blind FROM "C"; CREATE TABLE folded (v text COLLATE blind, w varchar)')
        cursor.execute("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blind'")
        (table,) = (it for it in layout.read_layout(cursor.connection, "kinds") if it.name == "folded")
        assert table.hashed == ("pg_catalog.textsend(v)", "w")
        cursor.execute("CREATE TYPE own AS ENUM ('x'); CREATE DOMAIN mine AS int")
        for kind in ("own", "mine", "int[]", "regclass", "own[]", "int4range"):
            cursor.execute(f"CREATE TABLE other (v {kind})")
            (table,) = (it for it in layout.read_layout(cursor.connection, "kinds") if it.name == "other")
            assert not table.hashed, kind
            cursor.execute("DROP TABLE other")
        cursor.execute("ROLLBACK")
