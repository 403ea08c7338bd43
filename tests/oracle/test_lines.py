"""corr and the regression line, combined from partial ones: against exact fractions, and one PostgreSQL where doubles
cannot hold the squares."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from fractions import Fraction

import pytest
from sqlalchemy import text

from shardpool import Config, Router, Sharded
from shardpool.planner import variances

Pair = tuple[float | None, float | None]

FUNCTIONS = ("corr", "regr_slope", "regr_intercept", "regr_r2")
CALLS = ", ".join(f"{name}(y, x)" for name in FUNCTIONS)
NAN, INF = math.nan, math.inf
SEED = 20261


def _random(seed: int, count: int, center: float = 0.0, spread: float = 1.0) -> list[Pair]:
    chance = random.Random(seed)
    xs = [center + spread * chance.uniform(-1, 1) for _ in range(count)]
    return [(3.5 + x * 2 + spread * chance.gauss(0, 1), x) for x in xs]


#: Pairs of y and x.
GROUPS: dict[str, list[Pair]] = {
    "only NULLs": [(None, 1.0), (2.0, None), (None, None)],
    "one pair": [(2.0, 1.0), (None, 7.0), (9.0, None)],
    "two pairs": [(2.0, 1.0), (5.0, 2.0)],
    "x of the rows that count is equal": [(1.0, 4.0), (2.0, 4.0), (None, 9.0), (5.0, 4.0)],
    "y of the rows that count is equal": [(4.0, 1.0), (4.0, 2.0), (9.0, None), (4.0, 5.0)],
    "x is equal, and sums of it are rounded": [(float(n), 0.1) for n in range(60)],
    "y is equal, and sums of it are rounded": [(0.1, float(n)) for n in range(60)],
    "both are equal": [(0.1, 0.7)] * 50,
    "zeros of both signs": [(1.0, 0.0), (2.0, -0.0), (4.0, 0.0)],
    "a line": [(3.0 + 2 * n, float(n)) for n in range(50)],
    "a falling line": [(3.0 - 2 * n, float(n)) for n in range(50)],
    "random": _random(SEED, 200),
    "far from zero": _random(SEED + 1, 200, center=1e6),
    "small": [(3e-120 * n * n, 1e-120 * n) for n in range(40)],
    "squares are too small for a double": [(1e-200 * n * n, 1e-200 * n) for n in range(40)],
    "large": _random(SEED + 3, 100, spread=1e100),
    "one outlier": [*_random(SEED + 4, 100), (1e6, -1e6)],
    "x is NaN": [(1.0, 2.0), (2.0, NAN), (3.0, 5.0)],
    "y is NaN": [(1.0, 2.0), (NAN, 3.0), (3.0, 5.0)],
    "all x are NaN": [(1.0, NAN), (2.0, NAN), (4.0, NAN)],
    "all x are NaN, y is equal": [(1.0, NAN), (1.0, NAN), (1.0, NAN)],
    "x is infinite": [(1.0, 2.0), (2.0, INF), (3.0, 5.0)],
    "x is infinite twice": [(1.0, -INF), (2.0, INF), (3.0, 5.0)],
    "all x are infinite": [(1.0, INF), (2.0, INF), (4.0, INF)],
    "y is infinite": [(-INF, 2.0), (2.0, 7.0), (3.0, 5.0)],
    "one pair of NaN": [(2.0, NAN)],
    "one infinite y": [(INF, 1.0)],
}


@pytest.fixture(scope="module")
def numbers() -> list[tuple[int, str, float | None, float | None]]:
    pairs = [(name, *pair) for name, found in GROUPS.items() for pair in found]
    print(f"seed {SEED}")
    random.Random(SEED).shuffle(pairs)
    return [(number, *pair) for number, pair in enumerate(pairs)]


@pytest.fixture
def router(config: Config, numbers: list[tuple[int, str, float | None, float | None]]) -> Iterator[Router]:
    ddl = "create table pairs (id bigint primary key, g text not null, y float8, x float8)"
    with Router(config) as router:
        router.create_schema(ddl, tables={"pairs": Sharded("id")})
        if not router.query("select count(*) from pairs").scalar():
            router.copy_into("pairs", numbers)
        yield router


def _exact(pairs: list[Pair]) -> list[float | None]:
    """The four functions of finite pairs, each rounded once."""
    found = [(Fraction(y), Fraction(x)) for y, x in pairs if y is not None and x is not None]
    if not found:
        return [None] * 4
    count = len(found)
    mean_y, mean_x = (sum((pair[place] for pair in found), Fraction(0)) / count for place in (0, 1))
    sxx = sum(((x - mean_x) ** 2 for _, x in found), Fraction(0))
    syy = sum(((y - mean_y) ** 2 for y, _ in found), Fraction(0))
    sxy = sum(((y - mean_y) * (x - mean_x) for y, x in found), Fraction(0))
    if sxx == 0:
        return [None] * 4
    slope = sxy / sxx
    r2 = sxy**2 / (sxx * syy) if syy else Fraction(1)
    corr = math.copysign(math.sqrt(float(r2)), sxy) if syy else None
    return [corr, float(slope), float(mean_y - mean_x * slope), float(r2)]


def _has_squares(pairs: list[Pair]) -> bool:
    values = [value for pair in pairs for value in pair if value is not None and None not in pair]
    return all(math.isfinite(value) for value in values) and max(map(abs, values), default=1.0) > 1e-150


def _differences(router: Router, where: str = "") -> list[str]:
    found: dict[str, list[float | None]] = {
        str(row[0]): list(row[1:]) for row in router.query(f"select g, {CALLS} from pairs{where} group by g").all()
    }
    wrong = []
    for name, pairs in GROUPS.items():
        scale = max((abs(value) for pair in pairs for value in pair if value and math.isfinite(value)), default=1.0)
        expected = _exact(pairs) if _has_squares(pairs) else _of_one(router, pairs)
        for function, mine, right in zip(FUNCTIONS, found[name], expected, strict=True):
            # An intercept is a difference of large numbers.
            slack = 1e-9 * max(1.0, scale) if function == "regr_intercept" else 1e-12
            if not _alike(mine, right, slack):
                wrong.append(f"{function} of {name!r}: got {mine}, expected {right}")
    return wrong


def _alike(left: float | None, right: float | None, slack: float) -> bool:
    if left is None or right is None:
        return left is right
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return math.isclose(left, right, rel_tol=1e-7, abs_tol=slack)


def _of_one(router: Router, pairs: list[Pair]) -> list[float | None]:
    """What one PostgreSQL says of pairs."""
    values = {"ys": [pair[0] for pair in pairs], "xs": [pair[1] for pair in pairs]}
    statement = f"select {CALLS} from unnest(cast(:ys as float8[]), cast(:xs as float8[])) as p(y, x)"
    with router.shard(next(iter(router.shard_map.by_shard()))).engine.connect() as connection:
        return list(connection.execute(text(statement), values).one())


def test_lines_are_combined_from_partial_ones(router: Router) -> None:
    explained = str(router.explain(f"select g, {CALLS} from pairs group by g"))
    assert "rung: pushdown" in explained
    assert "regr_sxy" in explained
    assert _differences(router) == []


def test_one_postgresql_agrees_where_its_sums_are_exact(router: Router) -> None:
    """So the fractions are a fair judge."""
    for name in ("only NULLs", "one pair", "two pairs", "a line", "random", "one outlier"):
        for mine, right in zip(_of_one(router, GROUPS[name]), _exact(GROUPS[name]), strict=True):
            assert _alike(mine, right, 1e-9), name


def test_filters_and_no_rows(router: Router) -> None:
    filtered = ", ".join(f"{name}(y, x) filter (where id % 3 = 0)" for name in FUNCTIONS)
    where = "g in ('random', 'a line', 'x is equal, and sums of it are rounded')"
    both = [
        router.query(f"select g, {filtered} from pairs where {where} group by g order by g").all(),
        router.query(f"select g, {CALLS} from pairs where {where} and id % 3 = 0 group by g order by g").all(),
    ]
    for left, right in zip(*both, strict=True):
        assert left[0] == right[0]
        # Sums are rounded in the order in which the shards' rows come.
        assert all(_alike(*pair, 1e-9) for pair in zip(left[1:], right[1:], strict=True)), (left, right)
    assert len(both[0]) == 3
    assert router.query(f"select {CALLS} from pairs where g = 'nothing'").one() == (None,) * 4


def test_distinct_ships_its_inputs(router: Router) -> None:
    found: float = router.query(
        "select corr(distinct y, x) from pairs where g in ('a line', 'only NULLs')"
    ).scalar_one()
    assert math.isclose(found, 1.0)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("corr", "WHEN (min(min_x) = max(max_x) AND abs(min(min_x)) < 'Infinity') OR", "WHEN"),
        ("regr_slope", " AND abs(min(min_x)) < 'Infinity'", ""),
        ("regr_r2", "THEN 1", "THEN NULL"),
        ("regr_intercept", "sum(n * b)", "sum(b)"),
        ("corr", "sum(e)", "max(e)"),
    ],
)
def test_planted_faults_are_seen(
    router: Router, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    columns, expression = variances.TWO_VARIABLES[name]
    assert old in expression
    monkeypatch.setitem(variances.TWO_VARIABLES, name, (columns, expression.replace(old, new)))
    # Another text: plans are remembered.
    assert _differences(router, where=f" where id >= 0 and '{name}{old[:5]}' <> ''")
