"""`pg_functions.txt` agrees with the functions of a running server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from shardpool.planner.functions import SESSION_FUNCTIONS, _classes
from tests.support.backends import plain_connection

#: Stable, not immutable, and yet the same on every shard: they depend only on settings that every session pins (time
#: zone, styles of dates and numbers), or on the database's encoding, or on the order in which an enum was created.
_STABLE = """
array_to_json array_to_string concat concat_ws convert convert_from convert_to date date_add date_part date_subtract
date_trunc enum_first enum_last enum_range extract format json_build_array json_build_object jsonb_build_array
jsonb_build_object length make_timestamptz numeric overlaps quote_literal quote_nullable row_to_json time timestamp
timestamptz timetz timezone to_char to_date to_json to_jsonb to_number to_timestamp generate_series
"""
STABLE = frozenset(_STABLE.split())
#: The version from whose catalog the file was made.
MADE_FROM = 18

_QUERY = """
SELECT p.proname, p.provolatile::text, p.prokind::text, p.proretset,
       p.prorettype::regtype::text, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'pg_catalog'
"""
_INTERNAL = frozenset(["internal", "cstring", "trigger", "event_trigger", "language_handler", "fdw_handler"])
_INTERNAL |= {"index_am_handler", "table_am_handler", "tsm_handler"}
_IDENTIFIERS = frozenset(
    ["regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace"]
)


@dataclass(frozen=True)
class Function:
    volatility: str
    kind: str
    returns_set: bool
    types: frozenset[str]

    @property
    def callable(self) -> bool:
        """Whether SQL can call it: no internal type is in its signature."""
        return not self.types & _INTERNAL


@pytest.fixture(scope="module")
def version(server_urls: list[str]) -> int:
    with contextlib.closing(plain_connection(server_urls[0])) as connection:
        return connection.server_version // 10000


@pytest.fixture(scope="module")
def functions(server_urls: list[str]) -> Mapping[str, list[Function]]:
    """Name -> its overloads in pg_catalog."""
    found: dict[str, list[Function]] = {}
    with contextlib.closing(plain_connection(server_urls[0])) as connection, connection.cursor() as cursor:
        cursor.execute(_QUERY)
        for name, volatility, kind, returns_set, result, arguments in cursor.fetchall():
            found.setdefault(name, []).append(Function(volatility, kind, returns_set, frozenset([result, *arguments])))
    return found


def of(kind: str, functions: Mapping[str, list[Function]]) -> Iterator[tuple[str, Function]]:
    """The overloads of a class's names that this server has and SQL can call."""
    for name in sorted(_classes()[kind]):
        for function in functions.get(name, []):
            if function.callable:
                yield name, function


def test_repeatable_functions_are_immutable_or_known_to_be_pinned(functions: Mapping[str, list[Function]]) -> None:
    wrong = [name for name, found in of("repeatable", functions) if found.volatility != "i" and name not in STABLE]
    assert wrong == []


def test_functions_of_sets_are_repeatable_too(functions: Mapping[str, list[Function]]) -> None:
    assert [name for name, found in of("set", functions) if not found.returns_set] == []
    assert [name for name, found in of("set", functions) if found.volatility != "i" and name not in STABLE] == []


def test_a_repeatable_function_is_a_plain_function(functions: Mapping[str, list[Function]]) -> None:
    assert [name for name, found in of("repeatable", functions) if found.kind != "f" or found.returns_set] == []


def test_aggregates_and_windows_are_what_the_server_says(functions: Mapping[str, list[Function]]) -> None:
    classes = _classes()
    for kind, letter in (("aggregate", "a"), ("window", "w")):
        listed = {name for name in classes[kind] if name in functions}
        assert listed == {name for name, found in functions.items() if any(each.kind == letter for each in found)}


def test_functions_that_are_only_in_one_class() -> None:
    classes = _classes()
    seen: dict[str, str] = {}
    for kind, names in classes.items():
        for name in names:
            # rank() and its like are both aggregates and window functions.
            assert name not in seen or {seen[name], kind} == {"aggregate", "window"}, name
            seen[name] = kind


def test_every_function_that_can_be_called_is_listed(functions: Mapping[str, list[Function]], version: int) -> None:
    if version != MADE_FROM:
        pytest.skip("another version: what is not listed is treated as unknown")
    listed = frozenset().union(*_classes().values()) | SESSION_FUNCTIONS
    missing = [name for name, found in functions.items() if name not in listed and any(f.callable for f in found)]
    assert missing == []


def test_every_listed_function_exists(functions: Mapping[str, list[Function]], version: int) -> None:
    if version != MADE_FROM:
        pytest.skip("made from another version")
    assert sorted(frozenset().union(*_classes().values()) - functions.keys()) == []


def test_functions_of_object_identifiers_and_of_queries_belong_to_the_server(
    functions: Mapping[str, list[Function]],
) -> None:
    """What names a table, or runs a text as SQL, sees another thing on every shard."""
    of_server = _classes()["server"] | SESSION_FUNCTIONS
    wrong = [
        name
        for name, found in functions.items()
        if any(function.callable and function.types & _IDENTIFIERS for function in found) and name not in of_server
    ]
    # Equality of identifiers and the conversions between them need a value of such a type, which is refused.
    assert [name for name in wrong if not name.startswith(("pg_typeof", "pg_collation_for"))] == []
    runs_sql = {"query_to_xml", "query_to_xmlschema", "table_to_xml", "cursor_to_xml", "ts_stat", "ts_rewrite"}
    assert sorted(runs_sql & functions.keys() - of_server) == []


def test_volatile_functions_are_never_repeatable_or_sets(functions: Mapping[str, list[Function]]) -> None:
    assert [
        name for kind in ("repeatable", "set") for name, found in of(kind, functions) if found.volatility == "v"
    ] == []
