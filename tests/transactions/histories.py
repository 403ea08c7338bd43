"""Histories of list-append transactions, and a checker that finds in them what isolation forbids.

A transaction appends unique numbers to lists, or reads lists. The longest list that was read of a key is the order of
its versions; every other read must be a prefix of it. From that follow the dependencies between transactions:

ww  wrote the next element after the other's        wr  read the other's element as the last one
rw  read a list that the other then continued

A cycle of ww is G0, of ww and wr G1c, with a single rw G-single. See Adya's and Elle's definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Outcome = Literal["ok", "fail", "info"]


@dataclass(frozen=True)
class Append:
    key: int
    element: int


@dataclass(frozen=True)
class Read:
    key: int
    elements: tuple[int, ...]


@dataclass
class Transaction:
    """`info`: nobody was told its outcome."""

    number: int
    operations: list[Append | Read] = field(default_factory=list)
    outcome: Outcome = "info"


Graph = dict[int, dict[int, set[str]]]


def check(history: Sequence[Transaction]) -> list[str]:
    """Return the anomalies, by name: lost, aborted, intermediate, internal, duplicate, fork, G0, G1c, G-single."""
    return [*_direct(history), *_cycles(history)]


def _writers(history: Sequence[Transaction]) -> dict[tuple[int, int], Transaction]:
    return {
        (it.key, it.element): transaction
        for transaction in history
        for it in transaction.operations
        if isinstance(it, Append)
    }


def _reads(history: Sequence[Transaction]) -> Iterator[tuple[Transaction, Read]]:
    for transaction in history:
        if transaction.outcome == "ok":
            yield from ((transaction, it) for it in transaction.operations if isinstance(it, Read))


def orders(history: Sequence[Transaction]) -> dict[int, tuple[int, ...]]:
    """The longest read of each key."""
    found: dict[int, tuple[int, ...]] = {}
    for _, read in _reads(history):
        if len(read.elements) > len(found.get(read.key, ())):
            found[read.key] = read.elements
    return found


def _direct(history: Sequence[Transaction]) -> Iterator[str]:
    writers, longest = _writers(history), orders(history)
    for transaction, read in _reads(history):
        told = f"transaction {transaction.number} read {read.elements} of key {read.key}"
        if len(set(read.elements)) < len(read.elements):
            yield f"duplicate: {told}"
        if longest[read.key][: len(read.elements)] != read.elements:
            yield f"fork: {told}, and somebody {longest[read.key]}"
        for place, element in enumerate(read.elements):
            writer = writers.get((read.key, element))
            if writer is None or writer.outcome == "fail":
                yield f"aborted: {told}, {element} was never committed"
            elif writer is not transaction and place == len(read.elements) - 1:
                own = [it.element for it in writer.operations if isinstance(it, Append) and it.key == read.key]
                if element != own[-1]:
                    yield f"intermediate: {told}, but transaction {writer.number} went on to {own[-1]}"
        yield from _internal(transaction)
    final = {read.key: read.elements for read in history[-1].operations if isinstance(read, Read)}
    for (key, element), writer in writers.items():
        if writer.outcome == "ok" and element not in final.get(key, ()):
            yield f"lost: {element} of transaction {writer.number} is not in the last read of key {key}"


def _internal(transaction: Transaction) -> Iterator[str]:
    mine: dict[int, list[int]] = {}
    for it in transaction.operations:
        if isinstance(it, Append):
            mine.setdefault(it.key, []).append(it.element)
        elif it.elements[len(it.elements) - len(mine.get(it.key, ())) :] != tuple(mine.get(it.key, ())):
            yield f"internal: transaction {transaction.number} did not read its own appends to key {it.key}"


def _graph(history: Sequence[Transaction]) -> Graph:
    writers, graph = _writers(history), Graph()
    longest = orders(history)

    def edge(before: Transaction | None, after: Transaction | None, kind: str) -> None:
        if before is not None and after is not None and before is not after:
            graph.setdefault(before.number, {}).setdefault(after.number, set()).add(kind)

    for key, elements in longest.items():
        for one, two in pairwise(elements):
            edge(writers.get((key, one)), writers.get((key, two)), "ww")
    for transaction, read in _reads(history):
        # Of its own appends at the end of a list nothing follows.
        seen = [it for it in read.elements if writers.get((read.key, it)) is not transaction]
        if seen:
            edge(writers.get((read.key, seen[-1])), transaction, "wr")
        following = longest[read.key][len(read.elements) :]
        if following:
            edge(transaction, writers.get((read.key, following[0])), "rw")
    return graph


def _cycles(history: Sequence[Transaction]) -> Iterator[str]:
    graph = _graph(history)
    for name, kinds in (("G0", {"ww"}), ("G1c", {"ww", "wr"})):
        only = _restricted(graph, kinds)
        for component in _components(only):
            yield f"{name}: transactions {sorted(component)}"
    firm = _restricted(graph, {"ww", "wr"})
    # Both ends of an edge in a cycle are in one component.
    home = {node: at for at, found in enumerate(_components(_restricted(graph, {"ww", "wr", "rw"}))) for node in found}
    for before, edges in graph.items():
        for after, kinds in edges.items():
            together = before in home and home[before] == home.get(after)
            if kinds == {"rw"} and together and _reaches(firm, after, before):
                yield f"G-single: transaction {before} missed what {after} wrote, and saw what followed from it"


def _restricted(graph: Graph, kinds: set[str]) -> dict[int, set[int]]:
    return {before: {after for after, found in edges.items() if found & kinds} for before, edges in graph.items()}


def _reaches(graph: Mapping[int, set[int]], start: int, goal: int) -> bool:
    waiting, seen = [start], {start}
    while waiting:
        for after in graph.get(waiting.pop(), ()):
            if after == goal:
                return True
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return False


def _components(graph: Mapping[int, set[int]]) -> Iterator[set[int]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in graph:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(graph.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            after = next(following, None)
            if after is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = set()
                    while True:
                        found = stack.pop()
                        on_stack.discard(found)
                        component.add(found)
                        if found == node:
                            break
                    if len(component) > 1:
                        yield component
            elif after not in index:
                index[after] = low[after] = len(index)
                stack.append(after)
                on_stack.add(after)
                work.append((after, iter(graph.get(after, ()))))
            elif after in on_stack:
                low[node] = min(low[node], index[after])
