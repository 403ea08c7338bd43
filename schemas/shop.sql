-- A small shop: all that belongs to a customer lies in the customer's partition, countries stand on every shard.
--
--     [tables]
--     customers   = { key = "customer_id" }
--     orders      = { key = "customer_id" }
--     order_items = { key = "customer_id" }
--     country     = { reference = true }
--
-- Joins on customer_id and all foreign keys stay within one partition. An order is found by its customer and its own
-- id; ids come from the application, because a sequence would count in each partition by itself.

CREATE TABLE country (
    code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE customers (
    customer_id  bigint      PRIMARY KEY,
    country_code text        NOT NULL REFERENCES country,
    name         text        NOT NULL,
    email        text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE orders (
    customer_id bigint        NOT NULL REFERENCES customers,
    order_id    bigint        NOT NULL,
    ordered_on  date          NOT NULL,
    status      text          NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'shipped', 'cancelled')),
    total       numeric(12,2) NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_id, order_id)
);

CREATE TABLE order_items (
    customer_id bigint        NOT NULL,
    order_id    bigint        NOT NULL,
    line        integer       NOT NULL,
    product     text          NOT NULL,
    quantity    integer       NOT NULL CHECK (quantity > 0),
    price       numeric(12,2) NOT NULL,
    PRIMARY KEY (customer_id, order_id, line),
    FOREIGN KEY (customer_id, order_id) REFERENCES orders ON DELETE CASCADE
);

CREATE INDEX orders_by_day ON orders (ordered_on);
