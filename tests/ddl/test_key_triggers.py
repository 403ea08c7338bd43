"""Triggers that assign the partition key are refused; such as do something else are not."""

from __future__ import annotations

import pytest

from shardpool.ddl.key_triggers import assigns
from shardpool.errors import SchemaError
from tests.ddl.ddl_tools import SHOP, TABLES, Place

ASSIGNS = [
    "begin new.k = 7; return new; end",
    "BEGIN NEW.K := 7; RETURN NEW; END",
    'begin if true then NEW."k" = 1; end if; return new; end',
    "begin -- the key\n new . k\n= lower(new.k); return new; end",
    "begin select 1 into new.k; return new; end",
    "begin select 1, 2 into strict new.v, new.k; return new; end",
    "begin x := 1; new.k = x; return new; end",
]
KEEPS = [
    "begin new.v = new.k; return new; end",
    "begin if new.k = 7 then new.v := 1; end if; return new; end",
    "begin new.kk := 1; return new; end",
    "begin -- new.k := 7;\n return new; end",
    "begin raise notice 'x; new.k := %', new.k; return new; end",
    "begin x := new.k = 3; select new.k into x; return new; end",
    "declare x int := new.k; begin return new; end",
]


@pytest.mark.parametrize("body", ASSIGNS)
def test_assignments_are_found(body: str) -> None:
    assert assigns(body, "k")


@pytest.mark.parametrize("body", KEEPS)
def test_what_assigns_other_columns_passes(body: str) -> None:
    assert not assigns(body, "k")


def function(name: str, line: str) -> str:
    words = "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$;"
    return words.format(name, line)


def trigger(when: str, of: str) -> str:
    return f"CREATE TRIGGER t {when} ON orders FOR EACH {of} EXECUTE FUNCTION f();"


def test_a_trigger_that_changes_the_key_is_refused(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema(function("f", "NEW.customer_id := NEW.customer_id + 1"), {})
    for when in ("BEFORE INSERT", "BEFORE UPDATE OF total", "BEFORE INSERT OR DELETE"):
        with pytest.raises(SchemaError, match=r"SP271.*'f'.*NEW\.customer_id"):
            place.manager.create_schema(trigger(when, "ROW"), {})
    place.manager.create_schema(trigger("AFTER INSERT", "ROW"), {})


def test_nor_may_its_function_become_one(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema(function("f", "NEW.total := NEW.customer_id") + trigger("BEFORE INSERT", "ROW"), {})
    with pytest.raises(SchemaError, match="SP271"):
        place.manager.create_schema(function("f", "NEW.customer_id := 1"), {})
    # Of another table it may.
    place.manager.create_schema(function("g", "NEW.customer_id := 1"), {})
