"""The planner: (statement, topology) -> plan. Pure: it opens nothing and asks no server.

A statement is parsed by PostgreSQL's own parser (libpg_query, through postgast) into PostgreSQL's own tree, with the
definitions of `views` in their places. `analysis` finds each table occurrence and what pins it to partitions; the
ladder in `ladder` then tries its rungs, cheapest first:

=============  ======================================================================================================
*single*       every sharded table is pinned to the same partition: the user's own words run there
*reference*    only reference tables, or none: the user's own words run on any shard
*pushdown*     a partial query per partition, one statement per shard, and a merge query in PostgreSQL
*stages*       temporary tables first: subqueries that stand alone, tables that are spread, divided or gathered
*gather*       the needed rows become temporary tables of the same names, and the user's own words run over them
=============  ======================================================================================================

IN, ANY and OR lists of keys prune the partitions of *pushdown* and *gather*; the plan's route is then called *some*.
A rung returns a plan or its reason, as a value. Text that the planner generates is parsed again and must give exactly
the tree that was meant (`ast.to_sql`); text of the user is only ever changed at the byte positions of names.
"""
