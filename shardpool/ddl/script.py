"""From a script to statements in the user's words, with the keyspace's name taken out.

``shop.orders`` is how a user may write a table of keyspace `shop`. On a shard it stands in ``shop_p0017``, so the
qualification is cut out of the text and the search path does the rest. Each such cut is proven: the new text must parse
to the old tree without the qualification. Where cutting words is not enough, the text is generated from the tree, with
the same proof.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import postgast
from google.protobuf.message import Message
from postgast import pg_query_pb2 as pb

from shardpool.ddl.qualification import ANYWHERE, remove_qualification
from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import canonical, inner, statement_tree
from shardpool.planner.depth import parsed
from shardpool.topology.names import check_identifier


@dataclass(frozen=True)
class ParsedStatement:
    """A statement: its text, its tree (both without qualification), the tree's kind, the line where it begins."""

    text: str
    kind: str
    tree: Message
    line: int

    @property
    def what(self) -> str:
        """The leading keywords, to name the statement in messages."""
        if isinstance(self.tree, pb.CreateTableAsStmt) and self.tree.objtype == pb.OBJECT_TABLE:
            return "CREATE TABLE .. AS"
        found = itertools.takewhile(lambda token: token.keyword_kind != _NO_KEYWORD, _tokens(self.text))
        data = self.text.encode()
        return " ".join(data[token.start : token.end].decode().upper() for token in itertools.islice(found, 4))


def parse_script(ddl: str, keyspace: str) -> list[ParsedStatement]:
    """Split a script into statements. Raise `SchemaError` if PostgreSQL's grammar or an identifier is violated."""
    data = _encode(ddl)
    try:
        statements = parsed(ddl).stmts
    except postgast.PgQueryError as error:
        raise refuse("SP200", line=_line(data, max(error.cursorpos - 1, 0)), reason=error.message) from error
    _check_identifiers(ddl, data)
    found = []
    for raw in statements:
        end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(data)
        text = data[raw.stmt_location : end].decode()
        line = _line(data, raw.stmt_location + next(_tokens(text)).start)
        found.append(parse_statement(text.strip(), keyspace, line))
    return found


def created_tables(script: Iterable[ParsedStatement]) -> set[str]:
    """Return the names of the tables that the statements create."""
    return {it.tree.relation.relname for it in script if isinstance(it.tree, pb.CreateStmt)}


def parse_statement(text: str, keyspace: str, line: int = 1) -> ParsedStatement:
    """Parse one statement and take the keyspace's name out of it. Raise `SchemaError` for other schemas."""
    kind = str(parsed(text).stmts[0].stmt.WhichOneof("node"))
    tree = _tree(text)
    places = remove_qualification(tree, keyspace, line)
    if places:
        text = respell(_cut_name(text, keyspace, places), kind, tree) or _unspeakable(keyspace, line)
    return ParsedStatement(text, kind, tree, line)


def respell(candidate: str, kind: str, wanted: Message) -> str | None:
    """Return *candidate* if it is proven to mean *wanted*, else a generated text, or None if that is not proven."""
    return _proven(lambda: candidate, wanted) or generate(kind, wanted)


def generate(kind: str, wanted: Message) -> str | None:
    """Return a text for the tree *wanted*, or None if it does not parse to the same tree again."""
    return _proven(lambda: postgast.deparse(statement_tree(kind, wanted)), wanted)


def _proven(spell: Callable[[], str], wanted: Message) -> str | None:
    try:
        text = spell()
        return text if canonical(_tree(text)) == canonical(wanted) else None
    except postgast.PgQueryError:
        return None


def without_if_not_exists(statement: ParsedStatement) -> ParsedStatement:
    """Drop IF NOT EXISTS, which on a partition with a forgotten table of that name would pass over it in silence."""
    if not getattr(statement.tree, "if_not_exists", False):
        return statement
    tree = type(statement.tree)()
    tree.CopyFrom(statement.tree)
    tree.ClearField("if_not_exists")
    text = respell(_cut_if_not_exists(statement.text), statement.kind, tree)
    if text is None:
        return statement
    return ParsedStatement(text, statement.kind, tree, statement.line)


def words(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each token as (decoded, start, end): identifiers as PostgreSQL understands them, offsets in bytes."""
    data = text.encode()
    for token in _tokens(text):
        word = data[token.start : token.end].decode()
        yield (word[1:-1].replace('""', '"') if word.startswith('"') else word.lower()), token.start, token.end


def _tokens(text: str) -> Iterator[Any]:
    """Yield the tokens that are not comments."""
    return (token for token in postgast.scan(text).tokens if token.token not in _COMMENTS)


def _tree(text: str) -> Message:
    statements = parsed(text).stmts
    if len(statements) != 1:
        raise postgast.PgQueryError(f"expected one statement, got {len(statements)}")
    return inner(statements[0].stmt)


def _cut_name(text: str, keyspace: str, places: frozenset[int]) -> str:
    """Cut ``shop .`` where it begins a name."""
    tokens = list(words(text))
    cuts = [
        (start, tokens[index + 2][1])
        for index, (word, start, _) in enumerate(tokens[:-2])
        if word == keyspace and tokens[index + 1][0] == "." and (start in places or ANYWHERE in places)
    ]
    return _cut(text, cuts)


def _cut_if_not_exists(text: str) -> str:
    tokens = list(words(text))
    for index in range(len(tokens) - 3):
        if [word for word, _, _ in tokens[index : index + 3]] == ["if", "not", "exists"]:
            return _cut(text, [(tokens[index][1], tokens[index + 3][1])])
    return text


def _cut(text: str, cuts: Iterable[tuple[int, int]]) -> str:
    data = text.encode()
    for start, end in sorted(cuts, reverse=True):
        data = data[:start] + data[end:]
    return data.decode()


def _unspeakable(keyspace: str, line: int) -> str:
    raise refuse("SP205", line=line, name="a name", keyspace=repr(keyspace))


def _encode(ddl: str) -> bytes:
    if "\0" in ddl:
        raise refuse("SP206", name="in the script", reason="the text contains a NUL character")
    try:
        return ddl.encode()
    except UnicodeEncodeError as error:
        raise refuse("SP206", name="in the script", reason=f"the text is not valid Unicode ({error.reason})") from error


def _check_identifiers(ddl: str, data: bytes) -> None:
    """The grammar cuts long identifiers off; whoever wrote one means another name than he would get."""
    for token in postgast.scan(ddl).tokens:
        name = data[token.start : token.end].decode()
        if token.token == _UIDENT:
            raise refuse("SP206", name=name, reason="it is written with escapes")
        if token.token == _IDENT:
            _check_identifier(name[1:-1].replace('""', '"') if name.startswith('"') else name)


def _check_identifier(name: str) -> None:
    try:
        check_identifier(name)
    except ValueError as error:
        raise refuse("SP206", name=repr(name), reason=str(error)) from error


def _line(data: bytes, offset: int) -> int:
    return data[:offset].count(b"\n") + 1


_NO_KEYWORD = postgast.pg_query_pb2.KeywordKind.Value("NO_KEYWORD")
_COMMENTS = tuple(postgast.pg_query_pb2.Token.Value(name) for name in ("SQL_COMMENT", "C_COMMENT"))
_IDENT = postgast.pg_query_pb2.Token.Value("IDENT")
_UIDENT = postgast.pg_query_pb2.Token.Value("UIDENT")
