"""Which partitions should move where: a pure function of sizes.

A shard is in balance when its load is within the tolerance around its share, which is in proportion to its capacity.
The search begins with what must leave draining shards, then goes on by single changes, each of which either brings
shards closer to balance at the least cost per gain, or costs less and leaves the balance as it is. It ends because
every change improves one and worsens neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Differences smaller than this share of the mean are rounding errors.
EPSILON = 1e-9
#: With so many pairs on two shards, single moves are fine enough.
EXCHANGES = 10_000


@dataclass(frozen=True)
class Item:
    """A partition: where it is, what it counts for the balance, and what it costs to move."""

    partition: int
    shard: str
    weight: float
    cost: int


def choose_moves(
    items: Sequence[Item], targets: Collection[str], tolerance: float, capacities: Mapping[str, float] | None = None
) -> dict[int, str]:
    """Return partition -> new shard, for those to move. All of *items* end on *targets*; the same input gives the same
    output."""
    return _Search(sorted(items, key=lambda item: item.partition), sorted(targets), tolerance, capacities or {}).run()


@dataclass(frozen=True)
class _Change:
    """Items and where to put each: one, or two that change places."""

    places: Sequence[tuple[Item, str]]


class _Search:
    def __init__(
        self, items: Sequence[Item], targets: Sequence[str], tolerance: float, capacities: Mapping[str, float]
    ) -> None:
        self._items = items
        self._targets = targets
        self._share = shares(sum(item.weight for item in items), targets, capacities)
        mean = sum(self._share.values()) / len(targets)
        self._tolerance = tolerance
        self._epsilon = mean * EPSILON
        self._place = {item.partition: item.shard for item in items}
        self._load = dict.fromkeys(targets, 0.0)
        self._on: dict[str, list[Item]] = {shard: [] for shard in targets}
        for item in items:
            if item.shard in self._load:
                self._load[item.shard] += item.weight
                self._on[item.shard].append(item)

    def run(self) -> dict[int, str]:
        self._empty_the_others()
        while True:
            while change := self._best_gain():
                self._apply(change)
            if not self._save():
                break
        return {
            item.partition: self._place[item.partition]
            for item in self._items
            if self._place[item.partition] != item.shard
        }

    def _empty_the_others(self) -> None:
        """Put the items of draining shards, the heaviest first, each where there is least."""
        leaving = [item for item in self._items if item.shard not in self._load]
        for item in sorted(leaving, key=lambda item: (-item.weight, item.partition)):
            self._put(item, min(self._targets, key=self._fullness))

    def _apply(self, change: _Change) -> None:
        for item, shard in change.places:
            self._put(item, shard)

    def _put(self, item: Item, shard: str) -> None:
        old = self._place[item.partition]
        if old in self._load:
            self._load[old] -= item.weight
            self._on[old].remove(item)
        self._place[item.partition] = shard
        self._load[shard] += item.weight
        self._on[shard].append(item)

    # -- judging ----------------------------------------------------------------------------------------------------

    def _fullness(self, shard: str) -> tuple[float, str]:
        return self._load[shard] / (self._share[shard] or 1.0), shard

    def _outside(self, shard: str, load: float) -> float:
        """Return how far a load of a shard is from balance."""
        share = self._share[shard]
        high, low = share * (1 + self._tolerance), share * (1 - self._tolerance)
        return max(0.0, load - high) + max(0.0, low - load)

    def _gain(self, change: _Change) -> float:
        """Return by how much a change brings the shards closer to balance."""
        delta: dict[str, float] = {}
        for item, shard in change.places:
            old = self._place[item.partition]
            delta[old] = delta.get(old, 0.0) - item.weight
            delta[shard] = delta.get(shard, 0.0) + item.weight
        return sum(
            self._outside(shard, self._load[shard]) - self._outside(shard, self._load[shard] + change)
            for shard, change in sorted(delta.items())
        )

    def _cost(self, change: _Change) -> int:
        def cost(item: Item, shard: str) -> int:
            # One that must leave its shard costs the same wherever it goes.
            return item.cost if shard != item.shard else 0

        return sum(cost(item, shard) - cost(item, self._place[item.partition]) for item, shard in change.places)

    # -- choosing ---------------------------------------------------------------------------------------------------

    def _best_gain(self) -> _Change | None:
        """Return the change with the most gain per cost: from the fullest shard to the emptiest, or else anywhere; and
        where nothing can move alone, two that change places."""
        fullest = max(self._targets, key=self._fullness)
        emptiest = min(self._targets, key=self._fullness)
        return (
            self._best(self._between(fullest, emptiest))
            or self._best(self._anywhere(self._between))
            or self._best(self._anywhere(self._exchanges))
        )

    def _best(self, changes: Iterator[_Change]) -> _Change | None:
        found = []
        for change in changes:
            gain = self._gain(change)
            if gain > self._epsilon:
                found.append((gain / max(self._cost(change), 1), gain, change))
        return max(found, key=lambda it: it[:2])[2] if found else None

    def _between(self, source: str, target: str) -> Iterator[_Change]:
        if source != target:
            for item in self._on[source]:
                yield _Change([(item, target)])

    def _exchanges(self, source: str, target: str) -> Iterator[_Change]:
        if len(self._on[source]) * len(self._on[target]) <= EXCHANGES:
            for item in self._on[source]:
                for other in self._on[target]:
                    if item.weight > other.weight:
                        yield _Change([(item, target), (other, source)])

    def _anywhere(self, changes: Callable[[str, str], Iterator[_Change]]) -> Iterator[_Change]:
        for source in self._targets:
            for target in self._targets:
                if self._outside(source, self._load[source]) or self._outside(target, self._load[target]):
                    yield from changes(source, target)

    def _save(self) -> bool:
        """Take every change that costs less and leaves the balance as good: an item goes back, or another in its place.
        Return whether there was one."""
        saved = False
        for item in self._items:
            place = self._place[item.partition]
            if place == item.shard or item.shard not in self._load:
                continue
            back = (item, item.shard)
            changes = [_Change([back]), *(_Change([back, (other, place)]) for other in self._on[item.shard])]
            good = [change for change in changes if self._gain(change) > -self._epsilon]
            best = min(good, key=self._cost, default=None)
            if best is not None and self._cost(best) < 0:
                self._apply(best)
                saved = True
        return saved


def shares(total: float, targets: Collection[str], capacities: Mapping[str, float]) -> dict[str, float]:
    """Return what each of *targets* should have of a total load; without a capacity it counts as 1."""
    whole = sum(capacities.get(shard, 1.0) for shard in targets)
    return {shard: total * capacities.get(shard, 1.0) / whole for shard in targets}


def imbalance(
    loads: Mapping[str, float], targets: Collection[str], capacities: Mapping[str, float] | None = None
) -> float:
    """Return the largest difference of a shard's load from what it should have, as a share of the mean: 0 is perfect.

    Shards that are not in *targets* should have nothing.
    """
    total = sum(loads.values())
    if not total:
        return 0.0
    share = shares(total, targets, capacities or {})
    return max(abs(load - share.get(shard, 0.0)) for shard, load in loads.items()) / (total / len(targets))
