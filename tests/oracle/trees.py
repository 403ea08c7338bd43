"""Statements as trees that can be written as text and made smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace


class Node:
    """A piece of a statement."""

    def sql(self) -> str:
        raise NotImplementedError

    @property
    def width(self) -> int:
        """How many columns a query has."""
        return 0

    def smaller(self) -> Iterator[Node]:
        """Yield the node with one piece left out or simplified."""
        return iter(())


@dataclass(frozen=True)
class Text(Node):
    text: str
    instead: tuple[str, ...] = ()

    def sql(self) -> str:
        return self.text

    def smaller(self) -> Iterator[Node]:
        for text in self.instead:
            yield Text(text)


@dataclass(frozen=True)
class Form(Node):
    """A template with ``{0}``, ``{1}``; the children numbered in `instead` may stand for the whole."""

    template: str
    children: tuple[Node, ...]
    instead: tuple[int, ...] = ()

    def sql(self) -> str:
        return self.template.format(*(child.sql() for child in self.children))

    def smaller(self) -> Iterator[Node]:
        for place in self.instead:
            yield self.children[place]
        for place, child in enumerate(self.children):
            for less in child.smaller():
                yield replace(self, children=_with(self.children, place, less))


@dataclass(frozen=True)
class Seq(Node):
    """Items after a prefix, between separators; nothing at all without items."""

    prefix: str
    separator: str
    items: tuple[Node, ...] = ()
    least: int = 0

    def sql(self) -> str:
        return self.prefix + self.separator.join(item.sql() for item in self.items) if self.items else ""

    def smaller(self) -> Iterator[Node]:
        if len(self.items) > self.least:
            for place in range(len(self.items)):
                yield replace(self, items=self.items[:place] + self.items[place + 1 :])
        for place, item in enumerate(self.items):
            for less in item.smaller():
                yield replace(self, items=_with(self.items, place, less))


def _with(nodes: tuple[Node, ...], place: int, node: Node) -> tuple[Node, ...]:
    return (*nodes[:place], node, *nodes[place + 1 :])


@dataclass(frozen=True)
class Select(Node):
    """A SELECT. With `order` it is sorted by `first`, then by every output column, each in a direction of `order`."""

    targets: Seq
    source: Node = Text("")
    where: Seq = Seq(" where ", " and ")
    group: Seq = Seq(" group by ", ", ")
    having: Seq = Seq(" having ", " and ")
    ctes: Seq = Seq("with ", ", ")
    distinct: str = ""
    distinct_on: bool = False
    first: Seq = Seq("", ", ")
    order: tuple[str, ...] = ()
    limit: str = ""

    def sql(self) -> str:
        ctes = self.ctes.sql() + " " if self.ctes.items else ""
        distinct = (
            f"distinct on ({self.targets.items[0].sql().split(' as ')[0]}) " if self.distinct_on else self.distinct
        )
        body = "".join(part.sql() for part in (self.source, self.where, self.group, self.having))
        return f"{ctes}select {distinct}{self.targets.sql()}{body}{self.tail()}"

    @property
    def width(self) -> int:
        return len(self.targets.items)

    def tail(self) -> str:
        if not self.order:
            return self.limit
        places = [f"{place + 1}{self.order[place % len(self.order)]}" for place in range(len(self.targets.items))]
        return " order by " + ", ".join([item.sql() for item in self.first.items] + places) + self.limit

    def smaller(self) -> Iterator[Node]:
        if self.limit:
            yield replace(self, limit="")
        elif self.order and not self.distinct_on:
            yield replace(self, order=(), first=Seq("", ", "))
        if self.distinct or self.distinct_on:
            yield replace(self, distinct="", distinct_on=False)
        for name in ("ctes", "where", "having", "group", "targets", "first", "source"):
            for less in getattr(self, name).smaller():
                yield replace(self, **{name: less})


@dataclass(frozen=True)
class SetOperation(Node):
    left: Select
    right: Select | SetOperation
    operator: str
    order: tuple[str, ...] = ()
    limit: str = ""

    @property
    def width(self) -> int:
        return self.left.width

    def sql(self) -> str:
        tail = replace(self.left, order=self.order, limit=self.limit, first=Seq("", ", ")).tail()
        return f"({self.left.sql()}) {self.operator} ({self.right.sql()}){tail}"

    def smaller(self) -> Iterator[Node]:
        yield self.left
        yield self.right
        if self.limit:
            yield replace(self, limit="")
        elif self.order:
            yield replace(self, order=())
        count = self.width
        flat = isinstance(self.right, Select)
        for place in range(count if count > 1 and flat else 0):
            sides = [
                replace(side, targets=replace(side.targets, items=_without(side.targets.items, place)))
                for side in (self.left, self.right)
            ]
            yield replace(self, left=sides[0], right=sides[1])
        for name in ("left", "right"):
            for less in getattr(self, name).smaller():
                if less.width == count:
                    yield replace(self, **{name: less})


def _without(items: tuple[Node, ...], place: int) -> tuple[Node, ...]:
    return items[:place] + items[place + 1 :]


def shrink(node: Node, fails: Callable[[Node], bool], attempts: int = 600) -> Node:
    """Return a smaller tree that still *fails*; ask at most *attempts* times."""
    improved = True
    while improved:
        improved = False
        for candidate in node.smaller():
            if attempts <= 0:
                return node
            attempts -= 1
            if fails(candidate):
                node, improved = candidate, True
                break
    return node
