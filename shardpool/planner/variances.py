"""How the merge query combines variances and covariances of partitions.

Exact types: each partition gives n = count(x), s = sum(x), q = sum(x * x), which is all that `numeric_stddev_internal`
(src/backend/utils/adt/numeric.c) works on; what follows repeats its steps, so that every digit is the same.

Floating types: n, the mean a and the variance v. The squared deviations from the whole mean are those from the
partitions' own means plus what the means deviate (Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances, 1979). The second part is a small difference of large numbers; it is taken exactly, in
numeric. The result may differ in the last digits, as it may between two runs of one PostgreSQL.

``corr`` and the regression line are NULL where all x (or y) are equal. Sums of squares do not tell, for they are
rounded: the least and the greatest value do. (Where PostgreSQL itself looks at the sums, it may give a number that
means nothing, over many rows of 0.1 for example.)
"""

from __future__ import annotations

#: Functions of one variable -> whether they are square roots, and how many rows they lack as a divisor.
ONE_VARIABLE = {
    "var_pop": (False, 0),
    "var_samp": (False, 1),
    "variance": (False, 1),
    "stddev_pop": (True, 0),
    "stddev_samp": (True, 1),
    "stddev": (True, 1),
}

_N = "CAST(sum(n) AS numeric)"


def exact(name: str) -> str:
    """Return the merge query's expression for a function of an integer or numeric variable."""
    root, less = ONE_VARIABLE[name]
    numerator = f"({_N} * sum(q) - sum(s) * sum(s))"
    variance = (
        f"CASE WHEN sum(n) > {less} THEN CASE WHEN {numerator} > 0 "
        f"THEN {numerator} / ({_N} * ({_N} - {less})) ELSE 0 END END"
    )
    if not root:
        return variance
    # The root of v to the digits of v. sqrt() may give more digits, and rounding those again could err, unless there
    # are more of them than the result has: no root of a number with s digits is that close to a half of the last digit.
    digits = f"2 * scale({variance}) + length(CAST(trunc({variance}) AS text)) + 2"
    return (
        f"CASE WHEN {variance} = 'NaN' THEN {variance} "
        f"ELSE round(sqrt(round({variance}, {digits})), scale({variance})) END"
    )


def floating(name: str) -> str:
    """Return the merge query's expression for a function of a floating variable."""
    root, less = ONE_VARIABLE[name]
    squares = f"(sum(v * n) + greatest({_between('a', 'a')}, 0))"
    variance = f"{squares} / CAST(sum(n) - {less} AS double precision)"
    return f"CASE WHEN sum(n) > {less} THEN {f'sqrt({variance})' if root else variance} END"


def _between(left: str, right: str) -> str:
    """What the means deviate: exact until it is rounded once."""
    left, right = (f"CAST(CAST({mean} AS text) AS numeric)" for mean in (left, right))
    difference = f"({_N} * sum(n * {left} * {right}) - sum(n * {left}) * sum(n * {right})) / {_N}"
    # What is smaller than any double is 0; to cast it would be an error.
    return f"CAST(round({difference}, 323) AS double precision)"


_MEANS = {"n": "regr_count", "a": "regr_avgx", "b": "regr_avgy"}


def _mean(column: str) -> str:
    return f"sum(n * {column}) / CAST(nullif(sum(n), 0) AS double precision)"


_SQUARES = f"CASE WHEN sum(n) > 0 THEN sum(c) + greatest({_between('a', 'a')}, 0) END"
_PRODUCTS = f"(sum(c * n) + {_between('a', 'b')})"

#: Of a line: the squares of x and y and their products, and the extremes of both over the rows that count.
_LINE = {
    **_MEANS,
    "c": "regr_sxx",
    "d": "regr_syy",
    "e": "regr_sxy",
    **{f"{extreme}_{variable}": f"{extreme} {variable}" for extreme in ("min", "max") for variable in "xy"},
}
_SXX = f"(sum(c) + greatest({_between('a', 'a')}, 0))"
_SYY = f"(sum(d) + greatest({_between('b', 'b')}, 0))"
_SXY = f"(sum(e) + {_between('a', 'b')})"
_CORRELATION = f"{_SXY} / nullif(sqrt({_SXX}) * sqrt({_SYY}), 0)"
_SLOPE = f"{_SXY} / nullif({_SXX}, 0)"


def _all_equal(variable: str) -> str:
    """Infinity and NaN deviate from themselves."""
    least, greatest = f"min(min_{variable})", f"max(max_{variable})"
    return f"({least} = {greatest} AND abs({least}) < 'Infinity')"


def _line(text: str, *cases: str) -> tuple[dict[str, str], str]:
    """The columns and expression of a function of the regression line, which has *text* where no case is."""
    return _LINE, f"CASE WHEN sum(n) > 0 THEN CASE {' '.join(cases)} ELSE {text} END END"


_NO_WIDTH = f"WHEN {_all_equal('x')} THEN NULL"

#: Functions of two variables -> the partial columns, and the merge query's expression. A partial column is a function
#: of the same arguments, or the least or greatest of one of them.
TWO_VARIABLES: dict[str, tuple[dict[str, str], str]] = {
    "regr_count": ({"n": "regr_count"}, "CAST(coalesce(sum(n), 0) AS bigint)"),
    "regr_avgx": ({"n": "regr_count", "a": "regr_avgx"}, _mean("a")),
    "regr_avgy": ({"n": "regr_count", "a": "regr_avgy"}, _mean("a")),
    "regr_sxx": ({"n": "regr_count", "a": "regr_avgx", "c": "regr_sxx"}, _SQUARES),
    "regr_syy": ({"n": "regr_count", "a": "regr_avgy", "c": "regr_syy"}, _SQUARES),
    "regr_sxy": ({**_MEANS, "c": "regr_sxy"}, f"CASE WHEN sum(n) > 0 THEN sum(c) + {_between('a', 'b')} END"),
    "covar_pop": (
        {**_MEANS, "c": "covar_pop"},
        f"CASE WHEN sum(n) > 0 THEN {_PRODUCTS} / CAST(sum(n) AS double precision) END",
    ),
    "covar_samp": (
        {**_MEANS, "c": "covar_pop"},
        f"CASE WHEN sum(n) > 1 THEN {_PRODUCTS} / CAST(sum(n) - 1 AS double precision) END",
    ),
    "corr": _line(_CORRELATION, f"WHEN {_all_equal('x')} OR {_all_equal('y')} THEN NULL"),
    "regr_slope": _line(_SLOPE, _NO_WIDTH),
    "regr_intercept": _line(f"{_mean('b')} - {_mean('a')} * ({_SLOPE})", _NO_WIDTH),
    "regr_r2": _line(f"power({_CORRELATION}, 2)", _NO_WIDTH, f"WHEN {_all_equal('y')} THEN 1"),
}
