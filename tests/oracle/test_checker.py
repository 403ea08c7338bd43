"""The checker is checked: each planted planner bug must be seen by the oracle, with the statement that shows it.

Each plant is a bug that a sharded PostgreSQL has really had. The statement is answered rightly before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from postgast import pg_query_pb2 as pb

from shardpool.executor import stages
from shardpool.planner import (
    aggregates,
    analyse,
    filters,
    gather,
    groups,
    ladder,
    lists,
    needed_rows,
    partitionwise,
    pins,
    pushdown,
    rows,
    safety,
    scopes,
    types,
    views,
)
from shardpool.planner.ast import Tree, is_a
from shardpool.planner.carriers import Carrier
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.plan import Concatenation, MergeQuery
from shardpool.planner.rewrite import copied
from tests.oracle.generator import Generator
from tests.oracle.oracle import Oracle
from tests.oracle.test_generated import smallest

#: Changes the planner through the monkeypatch; returns nothing.
Plant = Callable[[pytest.MonkeyPatch], None]

PLANTS: dict[str, tuple[Plant, tuple[str, ...]]] = {}


def plant(*statements: str) -> Callable[[Plant], Plant]:
    def register(function: Plant) -> Plant:
        PLANTS[function.__name__] = (function, statements)
        return function

    return register


@plant("select code, count(*) from orders group by code having count(*) > 5")
def having_is_applied_per_partition(patch: pytest.MonkeyPatch) -> None:
    original = groups.partial_of

    def partial_of(select: Tree, columns: Any) -> Tree:
        found = original(select, columns)
        if select.HasField("having_clause"):
            found.having_clause.CopyFrom(select.having_clause)
        return found

    patch.setattr(groups, "partial_of", partial_of)


@plant("select id from orders order by id offset 3 limit 4")
def offset_is_pushed_down(patch: pytest.MonkeyPatch) -> None:
    original = rows.first_rows

    def first_rows(select: Tree) -> Tree:
        found = original(select)
        if select.HasField("limit_offset"):
            found.limit_offset.CopyFrom(select.limit_offset)
        return found

    patch.setattr(rows, "first_rows", first_rows)


@plant(
    "select id from orders order by id offset 3 limit 4", "select id from orders order by total, id offset 9 limit 1"
)
def the_limit_of_a_partition_forgets_the_offset(patch: pytest.MonkeyPatch) -> None:
    original = rows.first_rows

    def first_rows(select: Tree) -> Tree:
        less = copied(select)
        less.ClearField("limit_offset")
        return original(less)

    patch.setattr(rows, "first_rows", first_rows)


@plant("select avg(total) from orders", "select code, avg(quantity) from orders group by code")
def an_average_of_averages(patch: pytest.MonkeyPatch) -> None:
    def average(call: Tree, level: Any, add: Callable[[Tree], str]) -> Tree:
        return aggregates._merge("avg(a)", level, a=add(call))

    patch.setattr(aggregates, "_average", average)


@plant("select count(*) from orders", "select code, count(total) from orders group by code")
def a_count_of_counts(patch: pytest.MonkeyPatch) -> None:
    original = aggregates.merged_aggregate

    def merged(call: Tree, level: Any, add: Callable[[Tree], str]) -> Tree:
        if call.func_call.funcname[-1].string.sval == "count":
            return aggregates._merge("count(a)", level, a=add(call))
        return original(call, level, add)

    patch.setattr(groups, "merged_aggregate", merged)


@plant("select count(*) from nothing", "select count(v) from lone where v > 100")
def no_rows_have_no_count(patch: pytest.MonkeyPatch) -> None:
    original = aggregates._merge

    def merge_without_zero(template: str, level: Any, **columns: str) -> Tree:
        return original(template.replace("coalesce(sum(a), 0)", "nullif(sum(a), 0)"), level, **columns)

    patch.setattr(aggregates, "_merge", merge_without_zero)


@plant("select sum(small) from orders", "select sum(big) from orders")
def sums_of_sums_change_their_type(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(aggregates, "SUM_TYPE", dict.fromkeys(aggregates.SUM_TYPE, "double precision"))


@plant("select sum(case when quantity > 2 then 1 else total end) from orders")
def case_has_the_type_of_its_first_value(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(types, "_common", lambda nodes, scope, analysis: types.type_of(next(iter(nodes)), scope, analysis))


@plant("select o.id, (select count(*) from items i where i.qty = o.quantity) from orders o order by o.id")
def counted_rows_are_gathered_once_each(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gather.Sources, "_are_checks", lambda self, table, items, columns: True)


@plant("select id from orders limit 5", "select customer_id from orders limit 3 offset 1")
def every_partition_has_its_limit_and_nobody_cuts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pushdown, "_concatenation", lambda select, statement: Concatenation())


@plant("select id from orders order by total desc nulls last, id limit 5")
def the_merge_forgets_the_order(patch: pytest.MonkeyPatch) -> None:
    original = pushdown.whole_rows

    def whole_rows(level: Any) -> tuple[Tree, Tree]:
        partial, merge = original(level)
        del merge.sort_clause[:]
        return partial, merge

    patch.setattr(pushdown, "whole_rows", whole_rows)


@plant("select id, total from orders order by total desc, id limit 5")
def the_merge_forgets_where_nulls_go(patch: pytest.MonkeyPatch) -> None:
    original = pushdown.whole_rows

    def whole_rows(level: Any) -> tuple[Tree, Tree]:
        partial, merge = original(level)
        for sort in merge.sort_clause:
            sort.sort_by.sortby_nulls = pb.SORTBY_NULLS_LAST
        return partial, merge

    patch.setattr(pushdown, "whole_rows", whole_rows)


@plant("select count(*) from orders o left join customers c on c.level = o.small where c.level is null")
def a_filter_sinks_below_the_null_supplying_side(patch: pytest.MonkeyPatch) -> None:
    for module in (filters, needed_rows):
        patch.setattr(module, "removes", lambda fact, item: fact.holds_for(item))


@plant(
    "select count(*) from customers c left join country k on k.code = c.code and k.name = 'nowhere' "
    "join orders o on o.small = c.level"
)
def kept_rows_are_reduced(patch: pytest.MonkeyPatch) -> None:
    """The rows of the kept side of an outer join are dropped where the other side has none for them."""
    for module in (filters, needed_rows):
        patch.setattr(module, "removes", lambda fact, item: True)


@plant("select c.name, o.id from customers c left join orders o on o.customer_id = c.customer_id and c.customer_id = 7")
def a_condition_of_on_pins_the_kept_side(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pins.Fact, "holds_for", lambda self, item: True)


@plant("select count(*) from orders where customer_id = 7 or id < 20")
def a_pin_is_taken_from_a_branch_of_or(patch: pytest.MonkeyPatch) -> None:
    original = pins.Equalities._alternatives

    def alternatives(self: Any, node: Tree, fact: Any) -> Any:
        if is_a(node, "bool_expr") and node.bool_expr.boolop == pb.OR_EXPR:
            return original(self, node.bool_expr.args[0], fact)
        return original(self, node, fact)

    patch.setattr(pins.Equalities, "_alternatives", alternatives)


@plant("select count(*) from orders where not (customer_id = 7)")
def a_pin_is_taken_from_under_not(patch: pytest.MonkeyPatch) -> None:
    original = pins.Equalities._alternatives

    def alternatives(self: Any, node: Tree, fact: Any) -> Any:
        if is_a(node, "bool_expr") and node.bool_expr.boolop == pb.NOT_EXPR:
            return original(self, node.bool_expr.args[0], fact)
        return original(self, node, fact)

    patch.setattr(pins.Equalities, "_alternatives", alternatives)


@plant("select count(*) from orders where customer_id = 7 or customer_id = 3")
def or_takes_the_first_of_its_alternatives(patch: pytest.MonkeyPatch) -> None:
    original = pins.values_of
    patch.setattr(pins, "values_of", lambda sources, key_type, given: original(sources[:1], key_type, given))


@plant(
    "select count(*) from (select customer_id from orders order by id limit 20) o where o.customer_id = 7",
    "select * from (select customer_id, row_number() over (order by id) as n from orders) o where o.customer_id = 7",
    "with o as (select * from orders) select (select count(*) from o) as n from o where o.customer_id = 7",
)
def a_pin_sinks_into_any_subquery(patch: pytest.MonkeyPatch) -> None:
    def use_of(scope: Any, analysis: Any) -> Any:
        return next((i for s in analysis.scopes for i in s.items if i.query is scope.select), None)

    patch.setattr(pins, "_use_of", use_of)


@plant("select c.code, o.id from country c join orders o on true where c.customer_id = 7")
def another_table_s_column_of_the_same_name_pins(patch: pytest.MonkeyPatch) -> None:
    original = pins.Equalities._comparisons

    def comparisons(self: Any, expression: Tree, fact: Any) -> Any:
        for (item, name), sources in original(self, expression, fact):
            yield (self._item if name in self._item.columns else item, name), sources

    patch.setattr(pins.Equalities, "_comparisons", comparisons)


@plant("select count(*) from orders a join orders b on a.id = b.id + 1")
def joins_of_other_columns_are_colocated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionWise, "_check_colocated", lambda *given: None)


@plant("select c.code, o.id from country c left join orders o on c.code = o.code")
def a_reference_table_is_kept_in_every_partition(patch: pytest.MonkeyPatch) -> None:
    original = PartitionWise._join
    kept_on_the_left = pb.JOIN_LEFT

    def join(self: Any, node: Tree, *where: Any) -> Any:
        if node.jointype == kept_on_the_left and is_a(node.larg, "range_var") and is_a(node.rarg, "range_var"):
            left, right = (self._from(side, *where) for side in (node.larg, node.rarg))
            if left is None:
                return right
        return original(self, node, *where)

    patch.setattr(PartitionWise, "_join", join)


@plant("select code, max(quantity) - min(quantity) from orders group by code", "select distinct code from orders")
def groups_are_taken_for_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionWise, "check_whole", lambda self, scope, carrier: None)


@plant("select count(*) from orders o where exists (select from orders p where p.id = o.id + 1)")
def subqueries_are_taken_for_tied(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionWise, "_same_keys", lambda *given: True)


@plant("select count(*) from orders where id in (select customer_id from orders where total > 10)")
def any_in_ties(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionWise, "_is_tied_by_in", lambda self, link, scope, carriers: True)


@plant("select count(*) from (select code from orders union select code from orders where active) x")
def union_is_taken_for_union_all(patch: pytest.MonkeyPatch) -> None:
    original = PartitionWise.union

    def union(self: Any, select: Tree, outer: Any = ()) -> Any:
        select.all = True
        try:
            return original(self, select, outer)
        finally:
            select.all = False

    patch.setattr(PartitionWise, "union", union)


@plant("select count(distinct code), count(*) from orders")
def counts_are_taken_over_distinct_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(groups, "is_blind_to_duplicates", lambda call: True)


@plant("select code, active, sum(quantity) from orders group by rollup (code, active)")
def a_rollup_becomes_a_cube(patch: pytest.MonkeyPatch) -> None:
    original = groups._Groups._group

    def group(self: Any, node: Tree, *others: Any) -> Tree:
        found = original(self, node, *others)
        if is_a(found, "grouping_set"):
            found.grouping_set.kind = pb.GROUPING_SET_CUBE
        return found

    patch.setattr(groups._Groups, "_group", group)


@plant("select (select max(l.n) from country c where c.code = 'de') from logins l")
def an_outer_aggregate_is_taken_for_the_subquery_s(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ladder, "aggregates_of_outer_queries", lambda analysis: False)


@plant("select count(*) from orders where not (customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)) or total > 50")
def an_empty_part_of_a_list_is_null(patch: pytest.MonkeyPatch) -> None:
    original = lists._split
    patch.setattr(lists, "_split", lambda elements, *others: original([None, *elements], *others))


@plant("select count(*) from orders where not (customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)) or total > 50")
def partitions_are_sent_each_other_s_keys(patch: pytest.MonkeyPatch) -> None:
    original = lists._split
    patch.setattr(lists, "_split", lambda *given: lambda partition: original(*given)((partition + 1) % 8))


@plant("select count(*) from orders group by now()")
def now_is_asked_on_every_shard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ladder, "at_one_moment", lambda statement, topology: statement)
    patch.setattr(safety, "is_repeatable", lambda name: True)


@plant("select sum(total) from orders", "select id, total from orders order by id", "select distinct id from orders")
def a_shard_s_rows_are_lost(patch: pytest.MonkeyPatch) -> None:
    original = stages.Job._filled

    def filled(self: Any, table: str, own: Any, select: str, by_shard: Any, *others: Any) -> int:
        return original(self, table, own, select, dict(list(by_shard.items())[:2]), *others)

    patch.setattr(stages.Job, "_filled", filled)


@plant(
    "select v.visit_id, k.name from visits v join customers c on c.customer_id = v.customer_id "
    "join country k on k.customer_id = c.customer_id where k.name = 'Brazil' order by 1"
)
def a_condition_that_reduced_a_table_is_not_checked_where_it_must_be(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(filters, "finds_one", lambda own, other: True)


@plant(
    "select a.n, b.age from logins a full join people b on b.boss = a.login",
    "select a.v, b.v from tiny a full join short b on a.customer_id = b.id",
)
def a_full_join_on_other_columns_is_colocated(patch: pytest.MonkeyPatch) -> None:
    def full(self: Any, join: Tree, scope: Any, left: Carrier, right: Carrier) -> Carrier:
        return Carrier((*left.roots, *right.roots), left.item, (), left.key_types)

    patch.setattr(PartitionWise, "_full", full)


@plant("select a.customer_id, count(*) from tiny a full join short b on a.customer_id = b.customer_id group by 1")
def the_key_of_one_side_of_a_full_join_is_each_rows(patch: pytest.MonkeyPatch) -> None:
    original = PartitionWise._full

    def full(self: PartitionWise, join: Tree, scope: Any, left: Carrier, right: Carrier) -> Carrier:
        return replace(original(self, join, scope, left, right), keys=left.keys)

    patch.setattr(PartitionWise, "_full", full)


@plant(
    "select c.customer_id from customers c left join orders o on o.customer_id = 1 and o.customer_id = 2",
    "select (select max(v) from tiny where customer_id = 1 and customer_id = 2), customer_id from orders",
)
def a_contradiction_empties_what_does_not_need_it(patch: pytest.MonkeyPatch) -> None:
    everything = property(lambda self: tuple(range(len(self.analysis.occurrences))))
    patch.setattr(ladder.CompiledQuery, "_decisive", everything)


@plant(
    "select count(*), count(customer_id) from people natural left join daily",
    "select count(*) from people natural join daily",
)
def a_natural_join_is_on_the_first_column_that_both_have(patch: pytest.MonkeyPatch) -> None:
    original = analyse.common_columns
    patch.setattr(analyse, "common_columns", lambda *given: (original(*given) or ())[:1])


@plant(
    "with recursive r(a, n) as (select customer_id, 1 from lone union all select a + 1, n + 1 from r where n < 5) "
    "select count(*) from r join orders o on o.customer_id = r.a"
)
def a_recursion_that_changes_the_key_is_taken_for_one_that_carries_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PartitionWise, "_exported", lambda *given: (0,))


@plant(
    "with recursive r(n) as (select line from items union select n + 1 from r where n < 4) select count(*) from r",
    "select count(*) from (select code from orders except select code from customers where vip) x",
    "select count(*) from (select code from orders intersect select code from customers where vip) x",
)
def rows_without_the_key_are_compared_in_each_partition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(partitionwise, "check_compared", lambda *given: None)


@plant("select * from (select v, customer_id from lone) a join lone b using (customer_id) order by b.v, a.v")
def a_star_does_not_begin_with_the_columns_of_using(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scopes.Scope, "using_of", lambda *given: ())


@plant("select code, sum(total) from orders group by code")
def partial_groups_are_not_grouped_again(patch: pytest.MonkeyPatch) -> None:
    original = pushdown.MergeQuery

    def merge_query(sql: str) -> MergeQuery:
        return original(sql.replace("sum(shardpool_partial", "max(shardpool_partial"))

    patch.setattr(pushdown, "MergeQuery", merge_query)


@plant("select count(*) from latest", "select count(*) from latest where customer_id = 7")
def a_view_loses_its_limit(patch: pytest.MonkeyPatch) -> None:
    _print_views(patch, lambda text: text.replace("LIMIT 10", ""))


@plant("select max(id), min(id), sum(total) from latest")
def a_view_loses_its_order(patch: pytest.MonkeyPatch) -> None:
    _print_views(patch, lambda text: text.replace("ORDER BY placed DESC NULLS LAST, id", ""))


def _print_views(patch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    original = views._definition
    patch.setattr(views, "_definition", lambda *given: change(original(*given)))


@plant("with large as (select 7 as customer_id) select count(*) from large")
def a_cte_does_not_hide_a_view(patch: pytest.MonkeyPatch) -> None:
    original = views.relations_read
    patch.setattr(views, "relations_read", lambda message, ctes=frozenset(): original(message, frozenset()))


@plant("with orders as (select 1 as id, 60 as total) select count(*) from large")
def a_cte_hides_the_table_of_a_view(patch: pytest.MonkeyPatch) -> None:
    original = views._definition
    patch.setattr(views, "_definition", lambda definition, ctes, keyspace: original(definition, frozenset(), keyspace))


@pytest.fixture
def planted(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Give a function that plants a bug by its name. Plans that were made with it do not outlive the test."""

    def put(name: str) -> None:
        PLANTS[name][0](monkeypatch)
        oracle.forget_plans()

    yield put
    monkeypatch.undo()
    oracle.forget_plans()


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_seen(oracle: Oracle, planted: Callable[[str], None], name: str) -> None:
    statements = PLANTS[name][1]
    before = [oracle.check(statement) for statement in statements]
    assert [outcome.kind for outcome in before] == ["same"] * len(statements)
    planted(name)
    for statement in statements:
        outcome = oracle.check(statement)
        assert outcome.kind == "mismatch", f"{name} was not seen\n{outcome}"


@pytest.mark.parametrize(
    "name",
    ["an_average_of_averages", "joins_of_other_columns_are_colocated", "the_merge_forgets_where_nulls_go"],
)
def test_random_statements_find_it_too_and_come_out_small(
    oracle: Oracle, planted: Callable[[str], None], name: str
) -> None:
    planted(name)
    for number in range(400):
        generator = Generator(f"planted:{number}")
        statement = generator.statement()
        if oracle.check(generator.spell(statement), generator.params).kind == "mismatch":
            break
    else:
        pytest.fail("not found by 400 statements")
    found = smallest(oracle, generator, statement)
    assert found.kind == "mismatch"
    assert len(found.sql) < 160, found.sql
