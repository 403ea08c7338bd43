"""The plan cache: what was found out about a statement, by its text. Emptied when the tables change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from shardpool.errors import ShardpoolError
from shardpool.planner.depth import at_any_depth
from shardpool.planner.literals import Values, lift
from shardpool.planner.statement import Statement, from_pyformat, from_text
from shardpool.topology.shard_map import Topology

T = TypeVar("T")

#: Statements that are remembered; beyond that the cache starts anew.
CACHED_STATEMENTS = 2000
#: And so many characters of them: an INSERT of a thousand rows has tens of thousands.
CACHED_CHARACTERS = 4_000_000


class PlanCache(Generic[T]):
    """Compiled statements of one kind. Its dictionary may be read without a lock: entries are immutable.

    What is returned fits the topology that is given: it writes the reservations of just the columns that are unique
    there, whoever put it into the cache.

    *serves_all*: whether one that was compiled with parameters in the place of literals is as good as with these.
    """

    def __init__(
        self,
        compile_statement: Callable[[Statement, Topology], T],
        serves_all: Callable[[T], bool] = lambda found: True,
    ) -> None:
        self._compile = compile_statement
        self._serves_all = serves_all
        self._entries: dict[str, tuple[frozenset[object], T]] = {}
        self._generation = self._characters = 0
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._generation += 1
        self._empty()

    def _empty(self) -> None:
        self._entries, self._characters = {}, 0

    def text(self, sql: str, topology: Topology) -> T:
        """Return what was compiled for text with ``:name`` parameters."""
        found = self._entries.get(sql)
        if found is not None and found[0] == topology.reserving:
            self.hits += 1
            return found[1]
        return self._add(sql, from_text(sql), topology)

    def find(
        self, sql: str, parameters: Mapping[str, Any], topology: Topology, pyformat: bool = False
    ) -> tuple[T, Mapping[str, Any]]:
        """Return what was compiled for a text, maybe for all that differ from it in literals, and its parameters."""
        if pyformat:
            return self.pyformat(sql, topology), parameters
        found = self._entries.get(sql)
        if found is not None and found[0] == topology.reserving:
            self.hits += 1
            return found[1], parameters
        words, values = lift(sql)
        shared = self._shared(words, values, topology) if values else None
        return (self.text(sql, topology), parameters) if shared is None else (shared, {**parameters, **values})

    def _shared(self, words: str, values: Values, topology: Topology) -> T | None:
        try:
            if words not in self._entries and not values.keys() <= set(from_text(words).names):
                return None  # it was read in another way: what looked like literals are parts of something else
            compiled = self.text(words, topology)
        except ShardpoolError:
            return None  # a literal may tell what a parameter does not
        return compiled if self._serves_all(compiled) else None

    def pyformat(self, sql: str, topology: Topology) -> T:
        """Return what was compiled for text in psycopg2's spelling, as SQLAlchemy writes it."""
        # No text starts with a NUL: the two spellings do not meet.
        found = self._entries.get("\0" + sql)
        if found is not None and found[0] == topology.reserving:
            self.hits += 1
            return found[1]
        return self._add("\0" + sql, from_pyformat(sql), topology)

    def _add(self, key: str, statement: Statement, topology: Topology) -> T:
        self.misses += 1
        generation = self._generation
        compiled = at_any_depth(lambda: self._compile(statement, topology))
        if len(self._entries) >= CACHED_STATEMENTS or self._characters > CACHED_CHARACTERS:
            self._empty()
        if generation == self._generation:
            self._entries[key] = topology.reserving, compiled
            self._characters += len(key)
        return compiled
