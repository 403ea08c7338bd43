"""The catalogue of refusals: every statement that `Router.query` and `Router.execute` do not answer, and the way out.

`REFUSALS` maps a code to (message, hint, example). Each example is executed by the tests and must be refused with its
code; codes are never given another meaning.
"""

from __future__ import annotations

from shardpool.errors import UnsupportedStatement

REFUSALS: dict[str, tuple[str, str, str]] = {
    "SP101": (
        "query() takes SELECT, INSERT, UPDATE, DELETE, MERGE and TRUNCATE, this is {what}",
        "router.create_schema changes tables, router.explain shows plans, router.copy_into and export jobs copy rows; "
        "for the rest ask one shard: router.connect(key) or router.shard(name).engine",
        "vacuum orders",
    ),
    "SP102": (
        "a write in WITH means something else in each partition than over all: {what}",
        "run the parts one after another in a transaction, or on one partition: execute(key, ...)",
        "with gone as (delete from orders returning *) select count(*) from gone, orders",
    ),
    "SP103": ("SELECT INTO creates a table", "use create_schema and copy_into", "select * into copy from orders"),
    "SP104": (
        "row locks cannot be held over several partitions here (FOR {what})",
        "in a transaction, lock rows of one table, of tables joined by their partition keys, or of one partition",
        "select o.total from orders o join orders p on o.total = p.total for update of o",
    ),
    "SP105": (
        "system column {what} means something else on every partition",
        "use the primary key",
        "select ctid from orders",
    ),
    "SP106": (
        "{what} is a system catalog: each shard has its own",
        "ask one shard: router.shard(name).engine",
        "select * from pg_class",
    ),
    "SP107": (
        "function {what}() reads or changes the state of one pooled session",
        "use router.connect(key) or router.shard(name).engine",
        "select pg_advisory_lock(1) from orders",
    ),
    "SP108": (
        "object identifiers ({what}) differ from shard to shard",
        "use the name as text",
        "select 'orders'::regclass from orders",
    ),
    "SP109": (
        "function {what}() tells about one server",
        "ask one shard: router.shard(name).engine",
        "select pg_backend_pid()",
    ),
    "SP115": (
        "the statement is nested too deeply to be analysed",
        "split it, or use parameters instead of long chains of operators",
        "select " + " + ".join(["1"] * 6000),
    ),
    "SP116": (
        "function {what}() reads a table that the statement does not name",
        "name it in FROM, so that its rows are gathered",
        "select number_of_orders()",
    ),
    "SP117": (
        "the row type of {what!r} belongs to each partition",
        "create a composite type of the columns, or name them",
        "select (null::orders).total from orders",
    ),
    "SP130": (
        "function {what}() may read or write anything, and a query in a transaction asks several shards",
        "run it on one partition: transaction.execute(key, ...)",
        "select number_of_orders()",
    ),
    "SP132": (
        "the write does not mean in each partition what it means over all: {what}",
        "pin it to one partition key, or query the rows first and write them by their keys in one transaction",
        "update orders set total = (select max(total) from orders) returning (select 1)",
    ),
    "SP133": (
        "the write would find another value on every shard: {what}",
        "evaluate it once, and pass the value as a parameter",
        "insert into orders (customer_id, id) values (1, 1), (2, 2) returning clock_timestamp() < now()",
    ),
    "SP134": (
        "reference tables are written in READ COMMITTED transactions only: their copies could part otherwise",
        "write it in a transaction of its own",
        "update country set name = 'x'",
    ),
    "SP135": (
        "function {what}() may read or write anything, and a write over several partitions asks each of them",
        "run it on one partition: execute(key, ...)",
        "delete from orders where number_of_orders() > 5",
    ),
    "SP136": (
        "a reference table is written by VALUES, and by conditions on its own rows: {what}",
        "query the rows first, and write them as VALUES or by copy_into",
        "update country set name = 'x' returning (select 1)",
    ),
    "SP137": (
        "stream() and explain(analyze=True) are for SELECTs",
        "query() writes; explain() without running it takes writes too",
        "delete from orders",
    ),
    "SP138": (
        "the new partition key moves rows to other partitions, which is no UPDATE for {what}",
        "delete and insert the rows in one transaction, with what depends on them",
        "update parents set customer_id = customer_id + 1",
    ),
    "SP139": (
        "the reservations of columns that are unique over all partitions could not be written along: {what}",
        "write such tables by query(): INSERT, UPDATE, DELETE, since PostgreSQL 18 MERGE and ON CONFLICT DO UPDATE of "
        "unique columns, too, and TRUNCATE with their tables of reservations in one; load new rows by copy_into() or a "
        "job, each with all unique columns",
        "truncate members",
    ),
    "SP140": (
        "{what!r} is a view: its tables are written, not the view",
        "name the table itself",
        "delete from large",
    ),
    "SP141": (
        "the definition of view {what!r} cannot stand where the statement names it",
        "name it plainly in FROM, with or without an alias, and no TABLESAMPLE",
        "select * from large tablesample system (5)",
    ),
    "SP142": (
        "view {what!r} refers to itself, or to views of views beyond 12 levels",
        "define it over tables",
        "select * from endless",
    ),
    "SP143": (
        "the row of view {what!r} as one value is a record: pg_typeof, a function of yours or (...).field sees that",
        "name the columns, or make it a value by to_jsonb; another alias, if a column of this name is meant",
        "select large, pg_typeof(large) from large",
    ),
    "SP144": (
        "{what}, a reference table, of which every shard has a copy",
        "say which tables are meant: FOR UPDATE OF a sharded one; lock the other's rows by a statement of their own, "
        "without LIMIT and SKIP LOCKED, in the same transaction",
        "select o.total from orders o, country c for update",
    ),
    "SP145": (
        "a schema change is no part of a transaction, and this one has written, or has a savepoint or a snapshot",
        "commit before it: Alembic does with transaction_per_migration=True, and a migration writes rows after its "
        "changes, or is one of its own",
        "alter table orders add note text",
    ),
    "SP110": (
        "{what} inside execute(): every call is a transaction of its own",
        "use router.connect(key) and its begin(), commit() and rollback()",
        "commit",
    ),
    "SP111": (
        "{what} is not a statement for one partition",
        "tables are changed by router.create_schema, settings in router.connect(key); MERGE is for router.query",
        "create table t (id bigint)",
    ),
    "SP112": (
        "table {what!r} is a reference table: writing it here would change one shard's copy only",
        "router.query and router.copy_into write reference tables on all shards",
        "insert into country values ('de', 'Germany')",
    ),
    "SP113": (
        "the partition key of a row for {what!r} cannot be read from the statement",
        "write the key as a parameter or a literal, or use router.copy_into",
        "insert into orders (id, customer_id) values (1, 40 + 2)",
    ),
    "SP114": (
        "changing the partition key of {what!r} would leave the row in the wrong partition",
        "delete the row and insert it under its new key",
        "update orders set customer_id = customer_id + 1",
    ),
}


def refuse(code: str, what: str = "") -> UnsupportedStatement:
    """Return the error of a catalogue entry, to be raised."""
    message, hint, _ = REFUSALS[code]
    return UnsupportedStatement(code, message.format(what=what), hint)
