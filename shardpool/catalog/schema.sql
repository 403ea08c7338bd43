-- shardpool's own tables, in the catalog database only. Version 1.
CREATE SCHEMA shardpool_catalog;

CREATE TABLE shardpool_catalog.version (version int NOT NULL, installed_at timestamptz NOT NULL DEFAULT now());
INSERT INTO shardpool_catalog.version (version) VALUES (1);

CREATE TABLE shardpool_catalog.keyspace (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    timezone text NOT NULL,
    user_functions text[] NOT NULL DEFAULT '{}'
);

-- A URL here never has a password.
CREATE TABLE shardpool_catalog.shard (
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    name text NOT NULL,
    url text NOT NULL,
    -- closed: takes no further partitions
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'closed')),
    -- what it takes of partitions, in proportion to the others
    capacity float8 NOT NULL DEFAULT 1 CHECK (capacity > 0),
    system_identifier text NOT NULL,
    database text NOT NULL,
    PRIMARY KEY (keyspace, name),
    UNIQUE (keyspace, system_identifier, database)
);

CREATE TABLE shardpool_catalog.partition (
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    id int NOT NULL,
    low bigint NOT NULL,
    high bigint NOT NULL CHECK (high > low),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('planned', 'active', 'retired')),
    parents int[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (keyspace, id)
);

CREATE TABLE shardpool_catalog.placement (
    keyspace text NOT NULL,
    partition int NOT NULL,
    shard text NOT NULL,
    epoch bigint NOT NULL,
    moving boolean NOT NULL DEFAULT false,
    PRIMARY KEY (keyspace, partition),
    FOREIGN KEY (keyspace, partition) REFERENCES shardpool_catalog.partition,
    FOREIGN KEY (keyspace, shard) REFERENCES shardpool_catalog.shard
);

CREATE TABLE shardpool_catalog.keyspace_table (
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    name text NOT NULL,
    definition jsonb NOT NULL,
    PRIMARY KEY (keyspace, name)
);

-- Every DDL statement of the keyspace in order: replayed on a new shard and in the schema of an arriving partition.
CREATE TABLE shardpool_catalog.ddl (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    statement text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('partition', 'shard')),
    -- true: needed only after rows were copied (foreign keys, triggers, secondary indexes)
    after_copy boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done')),
    tables jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shardpool_catalog.move (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyspace text NOT NULL,
    partition int NOT NULL,
    source text NOT NULL,
    target text NOT NULL,
    attempt int NOT NULL DEFAULT 1,
    step text NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'aborted')),
    detail jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (keyspace, partition) REFERENCES shardpool_catalog.partition
);
CREATE UNIQUE INDEX one_move_per_partition ON shardpool_catalog.move (keyspace, partition) WHERE state = 'running';

-- Written and committed before the object that it names is created.
CREATE TABLE shardpool_catalog.cleanup (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyspace text NOT NULL,
    move bigint NOT NULL REFERENCES shardpool_catalog.move,
    shard text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('schema')),
    name text NOT NULL
);

-- The decision of a load that commits on several shards; a resolver that finds none enters committed = false.
CREATE TABLE shardpool_catalog.load_decision (
    gid text PRIMARY KEY,
    keyspace text NOT NULL,
    committed boolean NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now()
);

-- The last tick of ids that a router has leased; each belongs to one router for ever.
CREATE TABLE shardpool_catalog.id_clock (
    keyspace text PRIMARY KEY REFERENCES shardpool_catalog.keyspace,
    tick bigint NOT NULL
);

-- A plan that is carried out, so that another process can go on with it.
CREATE TABLE shardpool_catalog.rebalance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    moves jsonb NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'replaced')),
    started_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_rebalance ON shardpool_catalog.rebalance (keyspace) WHERE state = 'running';

-- Jobs of the runner. `wanted` is what its user asked for last; `spec` never has a secret or a password.
CREATE TABLE shardpool_catalog.job (
    id uuid PRIMARY KEY,
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    name text NOT NULL,
    kind text NOT NULL,
    spec jsonb NOT NULL,
    digest text NOT NULL,
    planned boolean NOT NULL DEFAULT false,
    state text NOT NULL CHECK (state IN ('running', 'paused', 'failed', 'cancelled', 'done')),
    wanted text NOT NULL DEFAULT 'run' CHECK (wanted IN ('run', 'pause', 'cancel')),
    progress jsonb NOT NULL DEFAULT '{}',
    error text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_open_job_per_name ON shardpool_catalog.job (keyspace, name)
    WHERE state NOT IN ('done', 'cancelled');

-- What a job is cut into, fixed before its first row is read.
CREATE TABLE shardpool_catalog.job_chunk (
    job uuid NOT NULL REFERENCES shardpool_catalog.job ON DELETE CASCADE,
    number int NOT NULL,
    definition jsonb NOT NULL,
    PRIMARY KEY (job, number)
);

-- Which chunks are in this keyspace, entered by the transaction that decides to commit their rows. The job may be one of
-- another catalog.
CREATE TABLE shardpool_catalog.job_ledger (
    job uuid NOT NULL,
    chunk int NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    rejected bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, chunk)
);

-- How many batches of changes a job that replicates has told of a partition. `run` keeps out a process that was thought dead.
CREATE TABLE shardpool_catalog.job_position (
    job uuid NOT NULL,
    partition int NOT NULL,
    number bigint NOT NULL,
    run uuid NOT NULL,
    PRIMARY KEY (job, partition)
);

-- Views as a server prints them, with the keyspace's name before their tables: the planner puts them in place.
CREATE TABLE shardpool_catalog.keyspace_view (
    keyspace text NOT NULL REFERENCES shardpool_catalog.keyspace,
    name text NOT NULL,
    columns text[] NOT NULL,
    definition text NOT NULL,
    sharded boolean NOT NULL,
    PRIMARY KEY (keyspace, name)
);

-- A column of a table with rows that is being made unique over all partitions. Each process that works on it has its own
-- `attempt`; nothing is accepted from an earlier one.
CREATE TABLE shardpool_catalog.unique_build (
    keyspace text PRIMARY KEY REFERENCES shardpool_catalog.keyspace,
    table_name text NOT NULL,
    column_name text NOT NULL,
    attempt int NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'dropping')),
    started_at timestamptz NOT NULL DEFAULT now()
);
