"""The catalogue of everything that a schema change is refused for: code -> message, hint, and an example.

The message says what was found; the hint says what to do instead. An example is a script that is refused with that
code when it is planned for the tables of `EXAMPLE_TABLES` (or of its own `tables`); the tests run every one of them.
Codes from SP260 on come from real servers and have no script as an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardpool.errors import SchemaBusy, SchemaError
from shardpool.topology.tables import Reference, Sharded, TableKind

#: What the examples declare. `customers` (sharded by customer_id) and `country` (reference) exist already.
EXAMPLE_TABLES: Mapping[str, TableKind] = {"orders": Sharded("customer_id")}


@dataclass(frozen=True)
class Refusal:
    """A message template (filled by `str.format`), the way out, and a script that is refused with it."""

    message: str
    hint: str
    example: str = ""
    tables: Mapping[str, TableKind] = field(default_factory=lambda: EXAMPLE_TABLES)


_SPLIT_IDS = (
    "router.next_id(key) gives time-ordered 64-bit ids (default=shardpool.next_id for a column of SQLAlchemy), or use "
    "uuid with DEFAULT gen_random_uuid() on a sharded table"
)
_RESERVED = (
    "create table orders (customer_id bigint primary key, email text); "
    "create table emails (email text primary key, customer_id bigint not null); "
)
_ORDERS = "create table orders (customer_id bigint not null, id bigint, {}, primary key (customer_id, id))"

REFUSALS: Mapping[str, Refusal] = {
    # -- the script -------------------------------------------------------------------------------------------------
    "SP200": Refusal(
        "line {line}: PostgreSQL's grammar refuses the script: {reason}",
        "correct the statement; the grammar is that of PostgreSQL 18",
        "create table orders (customer_id bigint",
    ),
    "SP201": Refusal(
        "line {line}: {what} is not supported in a schema script",
        "supported are tables, views, indexes, triggers, types (enum, composite, domain), functions, and comments; "
        "create extensions, roles and grants on each shard yourself",
        "create materialized view v as select 1",
    ),
    "SP202": Refusal(
        "line {line}: {what} is transaction control",
        "leave it out: the whole script is one transaction on every shard, and is committed everywhere or nowhere",
        "begin; create index i on customers (name); commit",
    ),
    "SP203": Refusal(
        "line {line}: {what} reads or writes rows, a schema script only defines",
        "use router.execute, router.query or router.copy_into",
        "insert into customers values (1)",
    ),
    "SP204": Refusal(
        "line {line}: {what} CONCURRENTLY cannot run inside a transaction",
        "leave CONCURRENTLY out and apply the script at a quiet time: the index is built partition by partition",
        "create index concurrently i on customers (name)",
    ),
    "SP205": Refusal(
        "line {line}: {name} is qualified with a schema that is not keyspace {keyspace}",
        "write the name without a schema: it is found in the partition, in the keyspace's schema, or in public",
        "create table audit.orders (customer_id bigint primary key)",
    ),
    "SP206": Refusal(
        "identifier {name} cannot be used: {reason}",
        'use a name of at most 63 bytes, written with its own characters (no NUL, no U&"..." escapes)',
        "create table orders (customer_id bigint primary key, " + "c" * 64 + " int)",
    ),
    "SP207": Refusal(
        "line {line}: the name {name!r} is reserved: names that start with shardpool_ or pg_ are not the user's",
        "choose another name",
        "create table shardpool_orders (customer_id bigint primary key)",
        {"shardpool_orders": Sharded("customer_id")},
    ),
    # -- declarations -----------------------------------------------------------------------------------------------
    "SP210": Refusal(
        "line {line}: table {table!r} is created but not declared",
        'declare it: tables={{"{table}": Sharded("its key column")}}, or Reference() for one kept whole on every shard',
        "create table payments (customer_id bigint primary key)",
    ),
    "SP211": Refusal(
        "table {table!r} is declared, but the script does not create it and the keyspace does not have it",
        "add its CREATE TABLE to the script or remove the declaration; a name in double quotes is case-sensitive",
        "comment on table customers is 'who buys'",
    ),
    "SP212": Refusal(
        "table {table!r} is declared as {got}, but it exists as {expected}",
        "declare it as it is; to change a key, create a new table and copy the rows into it",
        "comment on table customers is 'who buys'",
        {"customers": Reference()},
    ),
    "SP213": Refusal(
        "table {table!r} is declared as {got}, expected Sharded(one or more different columns) or Reference()",
        'write tables={{"orders": Sharded("customer_id"), "country": Reference()}}',
        "create table orders (customer_id bigint primary key)",
        {"orders": Sharded(())},
    ),
    "SP214": Refusal(
        "table {table!r} is declared with these columns as unique over all partitions: {got}; it exists with: "
        "{expected}",
        "declare it as it is; `shardpool unique add` makes a column of a table with rows unique, `drop` ends that",
        "comment on table customers is 'who buys'",
        {"customers": Sharded("customer_id", {"email": "emails"})},
    ),
    # -- tables -----------------------------------------------------------------------------------------------------
    "SP220": Refusal(
        "line {line}: table {table!r} is {what}: its rows would not survive what a shard has to survive",
        "create an ordinary table",
        "create unlogged table orders (customer_id bigint primary key)",
    ),
    "SP221": Refusal(
        "line {line}: table {table!r} uses {what}, which ties it to other tables of one server",
        "write the columns out; the partitions of the keyspace already split the table",
        "create table orders (customer_id bigint primary key) partition by hash (customer_id)",
    ),
    "SP222": Refusal(
        "line {line}: {table!r} names a tablespace, which a server that joins later would not have",
        "leave it out, or set default_tablespace on the servers",
        "create table orders (customer_id bigint primary key) tablespace fast",
    ),
    "SP229": Refusal(
        "line {line}: {place} holds object identifiers: they are other numbers on every server",
        "keep the name as text",
        _ORDERS.format("kind regtype"),
    ),
    "SP223": Refusal(
        "line {line}: {place} takes its values from a sequence, which would count on every shard by itself and "
        "repeat the same values",
        _SPLIT_IDS,
        _ORDERS.format("number serial"),
    ),
    "SP224": Refusal(
        "line {line}: the default of {place} calls {what}, which would give another value on each shard",
        "give the value with each row, or use a constant (now() may be a default of a new table, but cannot fill a "
        "column that is added)",
        "create table currency (code text primary key, id uuid default gen_random_uuid())",
        {"currency": Reference()},
    ),
    "SP225": Refusal(
        "line {line}: {name!r} names both a table and a type",
        "use different names: behind a partition that has moved, the type would be found under the table's name",
        "create type customers as (a int)",
    ),
    # -- keys -------------------------------------------------------------------------------------------------------
    "SP230": Refusal(
        "line {line}: table {table!r} has no column {column!r}, which is declared as its key",
        "add the column, or declare the column that decides where a row lives",
        "create table orders (id bigint primary key)",
    ),
    "SP231": Refusal(
        "key column {column!r} of table {table!r} may be NULL, and NULL belongs to no partition",
        "declare it NOT NULL or make it part of the primary key",
        "create table orders (customer_id bigint, id bigint)",
    ),
    "SP232": Refusal(
        "key column {column!r} of table {table!r} is of type {got}, expected one of {expected}",
        "values of other types can be equal in SQL and still differ in bytes, so that a key would have two places; a "
        "domain or enum can change under the stored rows. Use one of the types named",
        "create table orders (customer_id numeric primary key)",
    ),
    "SP233": Refusal(
        "key column {column!r} of table {table!r} is generated",
        "a row's place must be known before it is sent: make it an ordinary column that the application fills",
        "create table orders (id bigint, customer_id bigint generated always as (id / 10) stored not null)",
    ),
    "SP234": Refusal(
        "key column {column!r} of table {table!r} has the nondeterministic collation {got}",
        "strings that are equal under it differ in bytes, so that a key would have two places: use a deterministic one",
    ),
    "SP235": Refusal(
        "{what} of table {table!r} does not contain the key ({expected}) as plain columns: partitions are checked one "
        "by one, so that it would not hold for the whole table",
        "add the key columns to it; a column that must be unique by itself gets that by `shardpool unique add`",
        "create table orders (customer_id bigint not null, id bigint primary key)",
    ),
    "SP236": Refusal(
        "{what} of table {table!r} does not compare the key ({expected}) with =: partitions are checked one by one, so "
        "that it would not hold for the whole table",
        "add `WITH =` for each key column: EXCLUDE (customer_id WITH =, ..)",
        _ORDERS.format("during tsrange, exclude using gist (during with &&)"),
    ),
    "SP237": Refusal(
        "line {line}: {what} {column!r} of table {table!r}, which is in its key: the rows of all partitions "
        "would have to move",
        "create a new table with the other key and copy the rows into it; an integer may only become a larger one",
        "alter table customers drop column customer_id",
    ),
    "SP238": Refusal(
        "line {line}: the foreign key ({columns}) of table {table!r} changes the key column {column!r} by {what}: the "
        "row would stay in the partition of its old key",
        "use NO ACTION, RESTRICT or ON DELETE CASCADE, or name the other columns: ON DELETE SET NULL (column)",
        "create table orders (customer_id bigint not null default 0 references customers on delete set default)",
    ),
    # -- foreign keys -----------------------------------------------------------------------------------------------
    "SP240": Refusal(
        "line {line}: the foreign key ({columns}) of reference table {table!r} refers to the sharded table "
        "{referenced!r}, of which every shard has only a part",
        "turn the reference round, or shard both tables by the same key",
        "create table currency (code text primary key, owner bigint references customers)",
        {"currency": Reference()},
    ),
    "SP241": Refusal(
        "line {line}: the foreign key ({columns}) of table {table!r} does not pair its key ({key}) with the key "
        "({referenced_key}) of {referenced!r}: the two rows may live on different shards",
        "include the keys on both sides, in the same places: FOREIGN KEY (customer_id, order_id) REFERENCES "
        "orders (customer_id, id)",
        "create table orders (customer_id bigint not null, buyer bigint references customers (customer_id))",
    ),
    "SP242": Refusal(
        "line {line}: the keys of {table!r} ({got}) and {referenced!r} ({expected}) are of different kinds: equal "
        "values have different places",
        "give both key columns the same type",
        "create table orders (customer_id text not null references customers)",
    ),
    "SP243": Refusal(
        "line {line}: the foreign key ({columns}) of table {table!r} refers to {referenced!r}, which the keyspace does "
        "not have",
        "create and declare that table first",
        "create table orders (customer_id bigint not null references clients)",
    ),
    "SP244": Refusal(
        "line {line}: ADD COLUMN IF NOT EXISTS {column!r} carries a foreign key",
        "add the column, then the constraint: ALTER TABLE .. ADD FOREIGN KEY",
        "alter table customers add column if not exists country text references country",
    ),
    "SP245": Refusal(
        "line {line}: the foreign keys of table {table!r} cannot be taken out of the statement",
        "write them as ALTER TABLE .. ADD FOREIGN KEY after the CREATE TABLE",
    ),
    # -- other objects ----------------------------------------------------------------------------------------------
    "SP246": Refusal(
        "line {line}: column {column!r} of table {table!r} cannot be unique over all partitions: it {what}",
        "name a table for it by Sharded(key, unique=...), and create that with the column, as its primary key, and the "
        "key of the first",
        "create table orders (customer_id bigint, id bigint, primary key (customer_id, id)); create table numbers "
        "(id bigint primary key)",
        {"orders": Sharded("customer_id", {"id": "numbers"}), "numbers": Sharded("id")},
    ),
    "SP247": Refusal(
        "line {line}: the foreign key ({columns}) of table {table!r} would change or delete rows whose {unique} "
        "is reserved in other partitions",
        "use NO ACTION or RESTRICT, and delete such rows by a statement of their own",
        "create table people (id bigint primary key); create table orders (customer_id bigint references people on "
        "delete cascade, email text, primary key (customer_id))",
        {"people": Sharded("id"), "orders": Sharded("customer_id", {"email": "emails"})},
    ),
    "SP248": Refusal(
        "line {line}: {name} holds what must be unique in table {table!r}",
        "drop both in one statement",
        _RESERVED + "drop table emails",
        {"orders": Sharded("customer_id", {"email": "emails"}), "emails": Sharded("email")},
    ),
    "SP249": Refusal(
        "line {line}: {table} holds what must be unique in table {owner!r}, and is as it must be",
        "drop it together with that table, and create both anew",
        _RESERVED + "alter table emails add column note text",
        {"orders": Sharded("customer_id", {"email": "emails"}), "emails": Sharded("email")},
    ),
    "SP250": Refusal(
        "line {line}: the keyspace has no {what} {name!r} that was created through a schema script",
        "check the name; add a function's argument types if there are several of that name",
        "drop index nowhere",
    ),
    "SP251": Refusal(
        "line {line}: {what} {name!r} exists with another definition",
        "leave the old definition in the script and add ALTER TABLE (for other objects: DROP and CREATE, or CREATE OR "
        "REPLACE FUNCTION)",
        "create index i on customers (name); create index i on customers (customer_id)",
        {},
    ),
    "SP252": Refusal(
        "line {line}: CASCADE would also drop what the script does not name",
        "drop the dependent objects by name first",
        "drop table customers cascade",
        {},
    ),
    "SP253": Refusal(
        "line {line}: {names} live in different places, or are not all known",
        "write one statement for each",
        "drop table customers, country",
        {},
    ),
    "SP254": Refusal(
        "line {line}: {what} is not supported: the recorded statements, which are repeated when a partition "
        "moves, know the old name",
        "create the object under the new name, copy what it holds, and drop the old one",
        "alter table customers rename to clients",
        {},
    ),
    "SP255": Refusal(
        "line {line}: trigger {name!r} on reference table {table!r} would fire once on each shard, and again when the "
        "table is copied to a new one",
        "do the work where the rows are written, or put the trigger on a sharded table",
        "create trigger t after insert on country for each row execute function f()",
        {},
    ),
    "SP256": Refusal(
        "line {line}: the body of function {name!r} {reason}",
        "name tables without a schema, in a body in quotes: they are then found in the caller's partition",
        "create function n() returns bigint language sql as 'select count(*) from shop.customers'",
        {},
    ),
    "SP257": Refusal(
        "line {line}: view {name!r} {reason}",
        "create a plain view: CREATE [OR REPLACE] VIEW name [(columns)] AS SELECT ...",
        "create temporary view v as select * from customers",
        {},
    ),
    "SP258": Refusal(
        "line {line}: {name!r} names a {what} of the keyspace already",
        "choose another name: tables, views and types share one set of names",
        "create view customers as select * from country",
        {},
    ),
    # -- applying ---------------------------------------------------------------------------------------------------
    "SP260": Refusal(
        "keyspace {keyspace!r} is being changed by somebody else (a schema change, or the switch of a move)",
        "try again in a moment",
    ),
    "SP261": Refusal(
        "partition {partition} is moving from {source} to {target}: its tables must stay as they are meanwhile",
        "wait for the move, or abort it: `shardpool move status`",
    ),
    "SP262": Refusal(
        "shard {shard!r} has a relation {schema}.{name}: a statement for a partition that has moved away would find it "
        "instead of failing",
        "rename or drop it on that shard",
    ),
    "SP263": Refusal(
        "shard {shard!r}, {where}: {reason}; in: {statement}",
        "nothing was changed on any shard: correct the script, or what stands in its way, and apply it again",
    ),
    "SP264": Refusal(
        "shard {shard!r}, {where}: other sessions did not give up their locks in time: {reason}; in: {statement}",
        "nothing was changed on any shard: try again when no long transactions use these tables",
    ),
    "SP265": Refusal(
        "the schema change was interrupted after its execution, when it was committed on {committed} and not surely on "
        "{missing}: {reason}",
        "call create_schema or resume again: it is finished everywhere, or undone if it is nowhere",
    ),
    "SP266": Refusal(
        "after this change the recorded statements no longer lead to the same tables, which a partition needs that "
        "moves to another shard: {reason}",
        "drop the foreign keys and triggers concerned before the change and create them again after it, in the same "
        "script; leave types, functions and reference tables in place that older statements name",
    ),
    "SP267": Refusal(
        "shard {shard!r} has no schema {schema}, where the shard map places a partition",
        "nothing was changed: find out where its rows are (`shardpool doctor`)",
    ),
    "SP268": Refusal(
        "an earlier schema change of keyspace {keyspace!r} is unfinished",
        "call resume() first",
    ),
    "SP270": Refusal(
        "router.query could not answer view {name!r}: {reason}",
        "nothing was changed on any shard: leave out of the view what is not the same in all partitions",
    ),
    "SP271": Refusal(
        "trigger {name!r} of table {table!r} calls function {function!r}, which assigns NEW.{column}: the row has its "
        "partition by then, and would have the key of another one",
        "nothing was changed on any shard: give rows their keys before they are written",
    ),
    "SP272": Refusal(
        "{table}.{column} is being made unique over all partitions: the tables must stay as they are meanwhile",
        "wait for it, or give it up: `shardpool unique drop`",
    ),
    "SP273": Refusal(
        "table {table!r} would have no columns", "nothing was changed on any shard: drop it, or give it some"
    ),
    "SP269": Refusal(
        "the keyspace changed while the script was executed",
        "nothing was changed on any shard: apply the script again",
    ),
}

_BUSY = frozenset({"SP260", "SP261", "SP264", "SP269", "SP272"})


def refuse(code: str, **values: object) -> SchemaError:
    """Return the error of *code* with its message filled in; the caller raises it."""
    refusal = REFUSALS[code]
    kind = SchemaBusy if code in _BUSY else SchemaError
    return kind(code, refusal.message.format(**values), refusal.hint.format(**values))
