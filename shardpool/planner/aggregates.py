"""Partial aggregates: what each partition computes for an aggregate call, and how the merge query combines it.

======================  ==============================  ========================================
call                    per partition                   merged
======================  ==============================  ========================================
count                   count                           sum, 0 for no rows, as bigint
sum                     sum                             sum, in the type that sum gives
min, max, bool_*, ...   the same                        the same
avg                     sum and count                   sum / count, as avg computes it
var_*, stddev_*,        see `variances`                 see there
covar_*, regr_*
======================  ==============================  ========================================

FILTER stays with the partial call. DISTINCT, ORDER BY and WITHIN GROUP inside a call are not partial.
"""

from __future__ import annotations

from collections.abc import Callable

from shardpool.planner.ast import Tree, names
from shardpool.planner.rewrite import copied, expression, rewritten
from shardpool.planner.shape import Level
from shardpool.planner.types import SUM_TYPE, type_of
from shardpool.planner.variances import ONE_VARIABLE, TWO_VARIABLES, exact, floating

_SAME = frozenset({"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"})
#: Adds a column to the partial query and returns its name.
AddColumn = Callable[[Tree], str]


class NotPartial(Exception):
    """The aggregate cannot be combined from partial ones; the message says why."""


#: Aggregates that give the same with and without duplicate rows.
_BLIND = frozenset({"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or"})


def is_blind_to_duplicates(function: Tree) -> bool:
    """Whether an aggregate call gives the same over the distinct rows of its arguments."""
    if function.HasField("agg_filter") or function.agg_within_group or function.func_variadic:
        return False
    return bool(function.agg_distinct) or (names(function.funcname)[-1] in _BLIND and not function.agg_order)


def merged_aggregate(call: Tree, level: Level, add: AddColumn) -> Tree:
    """Return the merge query's Node for an aggregate call (a Node), after adding its partial columns."""
    function = call.func_call
    name = names(function.funcname)[-1]
    if function.agg_distinct or function.agg_order or function.agg_within_group or function.func_variadic:
        raise NotPartial(f"{name} with DISTINCT, ORDER BY or WITHIN GROUP")
    if name == "count":
        return _merge("CAST(coalesce(sum(a), 0) AS bigint)", level, a=add(call))
    if name in _SAME:
        return _merge(f"{name}(a)", level, a=add(call))
    if name == "sum":
        kind = SUM_TYPE[_argument_type(function, level)]
        return _merge(f"CAST(sum(a) AS {kind})", level, a=add(call))
    if name == "avg":
        return _average(call, level, add)
    if name in ONE_VARIABLE:
        return _variance(call, level, add)
    if name in TWO_VARIABLES:
        columns, text = TWO_VARIABLES[name]
        return _merge(text, level, **{column: add(_of_two(call, partial)) for column, partial in columns.items()})
    raise NotPartial(f"{name}() has no partial form")


def _average(call: Tree, level: Level, add: AddColumn) -> Tree:
    """As PostgreSQL: exact types divide numeric by numeric, floating ones are summed in double precision."""
    if _argument_type(call.func_call, level) in ("real", "double precision"):
        total = _of("sum", "CAST(a AS double precision)", call)
        text = "sum(a) / CAST(nullif(sum(b), 0) AS double precision)"
    else:
        total = _renamed(call, "sum")
        text = "CAST(sum(a) AS numeric) / nullif(CAST(sum(b) AS numeric), 0)"
    return _merge(text, level, a=add(total), b=add(_renamed(call, "count")))


def _variance(call: Tree, level: Level, add: AddColumn) -> Tree:
    name = names(call.func_call.funcname)[-1]
    count = add(_renamed(call, "count"))
    if _argument_type(call.func_call, level) in ("real", "double precision"):
        mean, variance = add(_renamed(call, "avg")), add(_renamed(call, "var_pop"))
        return _merge(floating(name), level, n=count, a=mean, v=variance)
    total = add(_of("sum", "CAST(a AS numeric)", call))
    squares = add(_of("sum", "CAST(a AS numeric) * CAST(a AS numeric)", call))
    return _merge(exact(name), level, n=count, s=total, q=squares)


def _argument_type(function: Tree, level: Level) -> str:
    found = type_of(function.args[0], level.scope, level.analysis) if len(function.args) == 1 else None
    if found is None:
        raise NotPartial(f"the type of the argument of {names(function.funcname)[-1]}() is not known here")
    return found


def _renamed(call: Tree, name: str) -> Tree:
    copy = copied(call)
    del copy.func_call.funcname[1:]
    copy.func_call.funcname[0].string.sval = name
    return copy


def _merge(template: str, level: Level, **columns: str) -> Tree:
    def replace(node: Tree) -> Tree | None:
        if node.WhichOneof("node") != "column_ref":
            return None
        return level.column(columns[node.column_ref.fields[0].string.sval])

    return rewritten(expression(template), replace)


def _of_two(call: Tree, partial: str) -> Tree:
    """A partial column of `TWO_VARIABLES`: of the rows in which neither y, the first argument, nor x is NULL."""
    function, _, variable = partial.partition(" ")
    if not variable:
        return _renamed(call, function)
    own, other = ("b", "a") if variable == "x" else ("a", "b")
    return _of(function, f"CASE WHEN {other} IS NOT NULL THEN CAST({own} AS double precision) END", call)


def _of(function: str, template: str, call: Tree) -> Tree:
    """The call as another function's, of *template* with the call's arguments for its columns a and b."""
    arguments = dict(zip("ab", call.func_call.args, strict=False))

    def replace(node: Tree) -> Tree | None:
        if node.WhichOneof("node") != "column_ref":
            return None
        return copied(arguments[node.column_ref.fields[0].string.sval])

    found = _renamed(call, function)
    del found.func_call.args[:]
    found.func_call.args.append(rewritten(expression(template), replace))
    return found
