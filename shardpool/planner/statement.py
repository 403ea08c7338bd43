"""A statement in its two spellings: numbered ``$1`` for the parser, ``%(name)s`` for psycopg2.

Users write ``:name`` (as in `sqlalchemy.text`, but not inside literals, quoted names and comments). All analysis works
on byte positions in the numbered text; `render` turns it, with replacements at such positions, into psycopg2's
spelling.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.errors import InvalidSQL
from shardpool.planner.ast import Tree, parse
from shardpool.planner.plan import LIST_MARKER, SCHEMA_MARKER

#: A cast may follow, ``:n::text``, but not a single colon.
_NAMED = re.compile(rb"\\:|(?<![:\w\\\x80-\xff]):([A-Za-z_\x80-\xff][\w\x80-\xff]*+)(?!:(?!:))")
_PYFORMAT = re.compile(rb"%\(([^)]*)\)s|%%")
_OF_PSYCOPG2 = re.compile(r"%s|%\(\w+\)s")
_IN_PARAMETER = re.compile(rb"\bin\s+$", re.IGNORECASE)
_OPAQUE = {pb.SCONST, pb.BCONST, pb.XCONST, pb.USCONST, pb.UIDENT, pb.SQL_COMMENT, pb.C_COMMENT}

#: A replacement of the bytes start..end of the numbered text.
Edit = tuple[int, int, str]


@dataclass(frozen=True)
class Statement:
    """One SQL statement. `names[n - 1]` is the parameter behind ``$n``; `places` are the byte ranges in `numbered`."""

    numbered: str
    names: tuple[str, ...]
    places: tuple[tuple[int, int, str], ...]
    #: Parameters that stand for a whole parenthesised list, ``x IN :ids``.
    lists: frozenset[str] = frozenset()

    @cached_property
    def tree(self) -> Tree:
        """The parse result. Raise `InvalidSQL`, also for anything but exactly one statement."""
        for word in (SCHEMA_MARKER, LIST_MARKER):
            if word in self.numbered or any(word in name for name in self.names):
                raise InvalidSQL(f"{word} is a word of shardpool's own")
        try:
            result = parse(self.numbered)
        except InvalidSQL:
            # The parser's look-ahead stumbles over comments, as in NULLS /* x */ LAST: blank, they keep all positions.
            blanked = _without_comments(self.numbered)
            if _OF_PSYCOPG2.search(blanked):
                raise InvalidSQL("parameters are written :name, not %s or %(name)s") from None
            if blanked == self.numbered:
                raise
            result = parse(blanked)
        if len(result.stmts) != 1:
            raise InvalidSQL(f"expected one statement, got {len(result.stmts)}")
        if "$" in self.numbered and len(_parameters(self.numbered)) != len(self.places):
            raise InvalidSQL("parameters are written :name, not $1")
        return result

    @cached_property
    def node(self) -> Tree:
        return self.tree.stmts[0].stmt

    def lightened(self, node: Tree) -> Statement:
        """Return the statement with a tree that lacks what is not to be looked at again."""
        other = Statement(self.numbered, self.names, self.places, self.lists)
        other.__dict__["node"] = node
        return other

    def unparsed(self) -> Statement:
        """Return the statement without its tree, which takes much more room; it is made again when it is needed."""
        return Statement(self.numbered, self.names, self.places, self.lists)

    def changed(self, node: Tree, parameter: str) -> Statement:
        """Return a statement with another tree and one more parameter. Its words are no longer those of its tree."""
        other = Statement(self.numbered, (*self.names, parameter), self.places, self.lists)
        other.__dict__["node"] = node
        return other

    def edited(self, edits: Iterable[Edit]) -> Statement:
        """Return a statement of other words. Edits must not overlap each other or a parameter."""
        data = self.numbered.encode()
        out, position = bytearray(), 0
        places: list[tuple[int, int, str]] = []
        kept = ((start, end, None, name) for start, end, name in self.places)
        for start, end, replacement, name in sorted([*((*edit, "") for edit in edits), *kept], key=lambda it: it[:2]):
            out += data[position:start]
            if replacement is None:
                places.append((len(out), len(out) + end - start, name))
            out += data[start:end] if replacement is None else replacement.encode()
            position = end
        out += data[position:]
        return Statement(out.decode(), self.names, tuple(places), self.lists)

    def with_parameters(self, names: Iterable[str], lists: frozenset[str]) -> Statement:
        """Return a statement with more parameters, of which *lists* stand for a whole parenthesised list."""
        return Statement(self.numbered, (*self.names, *names), self.places, self.lists | lists)

    @cached_property
    def pyformat(self) -> str:
        """The user's words for psycopg2, which must be given a dictionary of parameters, be it empty."""
        return self.render(())

    def render(self, edits: Iterable[Edit]) -> str:
        """Return the user's words with *edits* made, for psycopg2. Edits must not overlap each other or a parameter."""
        data = self.numbered.encode()
        parts: list[str] = []
        position = 0
        # psycopg2 writes -5, and -5::text is not (-5)::text.
        forms = (
            (start, end, "(%({})s)" if data[end : end + 2] == b"::" else "%({})s", name)
            for start, end, name in self.places
        )
        placeholders = ((start, end, form.format(name)) for start, end, form, name in forms)
        for start, end, replacement in sorted((*edits, *placeholders)):
            parts.append(data[position:start].decode().replace("%", "%%"))
            parts.append(replacement)
            position = end
        parts.append(data[position:].decode().replace("%", "%%"))
        return "".join(parts)


def from_text(sql: str) -> Statement:
    """Read a statement with ``:name`` parameters. Raise `InvalidSQL`."""
    data = sql.encode()
    opaque = _opaque_ranges(sql) if b":" in data else []
    matches = [
        (match.start(), match.end(), match.group(1))
        for match in _NAMED.finditer(data)
        if not _within(match.start(), opaque)
    ]
    return _number(data, matches, literal=b":")


def from_pyformat(sql: str) -> Statement:
    """Read a statement as SQLAlchemy compiles it for psycopg2: ``%(name)s`` and doubled percent signs."""
    data = sql.encode()
    matches = [(match.start(), match.end(), match.group(1)) for match in _PYFORMAT.finditer(data)]
    return _number(data, matches, literal=b"%")


def _number(data: bytes, matches: Iterable[tuple[int, int, bytes | None]], literal: bytes) -> Statement:
    """Replace each match by its ``$n``; one without a name is an escaped *literal*."""
    names: dict[str, int] = {}
    places: list[tuple[int, int, str]] = []
    lists: set[str] = set()
    out = bytearray()
    position = 0
    for start, end, found in matches:
        out += data[position:start]
        position = end
        if found is None:
            out += literal
            continue
        name = found.decode()
        number = names.setdefault(name, len(names) + 1)
        text = b"$%d" % number
        if _IN_PARAMETER.search(out[-32:]):
            lists.add(name)
            text = b"(" + text + b")"
        places.append((len(out), len(out) + len(text), name))
        out += text
    out += data[position:]
    return Statement(out.decode(), tuple(names), tuple(places), frozenset(lists))


def _within(position: int, ranges: list[tuple[int, int]]) -> bool:
    """Whether one of the ordered, disjoint *ranges* holds *position*."""
    index = bisect_right(ranges, (position, sys.maxsize)) - 1
    return index >= 0 and position < ranges[index][1]


def _opaque_ranges(sql: str) -> list[tuple[int, int]]:
    """Byte ranges in which a colon is no parameter."""
    try:
        tokens = postgast.scan(sql).tokens
    except postgast.PgQueryError as error:
        raise InvalidSQL(error.message) from error
    data = sql.encode()
    return [
        (token.start, token.end)
        for token in tokens
        if token.token in _OPAQUE or (token.token == pb.IDENT and data[token.start : token.start + 1] == b'"')
    ]


def to_pyformat(sql: str, statement: Statement) -> str:
    """Turn generated, numbered text into psycopg2's spelling, with the parameters of *statement*."""
    edits = []
    for start, end in _parameters(sql):
        name = statement.names[int(sql.encode()[start + 1 : end]) - 1]
        if name in statement.lists:
            edits.append((start - 1, end + 1, f"%({name})s"))
        else:
            # In parentheses: psycopg2 writes -5, and -5::text is not (-5)::text.
            edits.append((start, end, f"(%({name})s)"))
    return Statement(sql, statement.names, ()).render(edits)


def _without_comments(sql: str) -> str:
    """Return *sql* with every byte of its comments replaced by a space."""
    try:
        tokens = postgast.scan(sql).tokens
    except postgast.PgQueryError:
        return sql
    data = bytearray(sql.encode())
    for token in tokens:
        if token.token in (pb.SQL_COMMENT, pb.C_COMMENT):
            data[token.start : token.end] = b" " * (token.end - token.start)
    return data.decode()


def _parameters(sql: str) -> list[tuple[int, int]]:
    """Return the byte ranges of ``$n`` in a text."""
    if "$" not in sql:
        return []
    return [(token.start, token.end) for token in postgast.scan(sql).tokens if token.token == pb.PARAM]
