"""Leaving out recorded statements that have no effect any more.

A partition that is built anew need not create a table or view to drop it again; and it could not, if a type of that
table's columns is gone meanwhile. The same holds for single indexes, triggers and foreign keys. What remains runs in
order.
"""

from __future__ import annotations

from collections.abc import Sequence

from shardpool.ddl.log import Recorded
from shardpool.ddl.statement import RELATIONS, Effect

_PARTS = ("index", "trigger", "foreign key")

#: An index, trigger or foreign key: what, table, name.
_Key = tuple[str, str, str]


def compact(log: Sequence[Recorded]) -> list[Recorded]:
    """Return the statements of *log* that still matter to a partition's tables, in order."""
    dead = _of_dropped_relations(log) | _of_dropped_parts(log)
    return [it for it in log if it.id not in dead]


def _of_dropped_relations(log: Sequence[Recorded]) -> frozenset[int]:
    """Statements about tables and views that are dropped later, and the drops."""
    dead: set[int] = set()
    dropped: set[str] = set()
    for it in reversed(log):
        owners = it.statement.owners
        dropped |= {
            effect.name for effect in it.statement.effects if effect.verb == "drop" and effect.what in RELATIONS
        }
        if owners and owners <= dropped:
            dead.add(it.id)
    return frozenset(dead)


def _of_dropped_parts(log: Sequence[Recorded]) -> frozenset[int]:
    """Statements about an index, trigger or foreign key, and nothing else, that is dropped later."""
    dead: set[int] = set()
    about: dict[_Key, list[int]] = {}
    for it in log:
        effects = [effect for effect in it.statement.effects if effect.what in _PARTS]
        for effect in effects:
            if effect.verb == "lose":
                # Without it, the statement that it goes with does the same.
                dead.update(about.pop(_key(effect), ()))
        named = [effect for effect in effects if effect.verb != "lose"]
        if len({_key(effect) for effect in named}) != 1:
            for effect in named:
                about.pop(_key(effect), None)
            continue
        for effect in named:
            _note(about, dead, effect, it.id)
    return frozenset(dead)


def _note(about: dict[_Key, list[int]], dead: set[int], effect: Effect, number: int) -> None:
    key = _key(effect)
    if effect.verb == "create":
        # Or replaced: a drop makes both without effect.
        about.setdefault(key, []).append(number)
    elif key in about:
        about[key].append(number)
        if effect.verb == "rename":
            about[(effect.what, effect.table, effect.new_name)] = about.pop(key)
        elif effect.verb == "drop":
            dead.update(about.pop(key))


def _key(effect: Effect) -> _Key:
    return effect.what, effect.table, effect.name
