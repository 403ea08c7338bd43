-- Expressions, types, names and literals.

select id, total::text, amount::text, weight::text, ratio::text from orders order by id;

select amount, amount + 1, amount * 1.00, round(amount, 1) from orders order by id;

select total, total::numeric(12,4), total::numeric, total * 1.0 from orders order by id limit 9;

select 1.0, 1.00, 1.50::numeric, id from lone, orders order by 4 limit 2;

select customer_id, credit, credit * 1.1 as more, -credit from customers order by 1;

select id, note || '!' as n, 'it''s', E'tab\t', 'a%b', '100%', ':name', $$a:b %s$$ from orders order by id limit 3;

select id from orders where note like 'a%' order by id;

select id from orders where note like '%\%%' order by id;

select id from orders where note = 'a%b' order by id;

select id from orders where note = 'a:b' or note ilike ':%' order by id;

select id % 7 as m, count(*) from orders group by id % 7 order by m;

select '%(x)s', '%s', '%%' from lone;

-- params: {"x": "50%"}
select :x, 'a:x', ":x" from (select 1 as ":x") t, lone;

-- params: {"x": "a'b\\c"}
select :x || note as v from orders order by id limit 3;

-- params: {"x": 3}
select id /* :y %s */ from orders -- :z
where id = :x;

-- params: {"x": 1, "xy": 2}
select id from orders where id in (:x, :xy) order by id;

-- params: {"x": 5}
select id from orders where id = :x or quantity = :x or note = 'x:x' order by id;

select "select", "Größe", "a""b", "100%", "x:y", "CamelCase" from "Order Line" order by 5, 1;

select * from "Order Line" where "Customer Id" = 3 order by "100%";

select "100%" from "Order Line" where "x:y" = 'v:3';

select distinct "100%" from "Order Line" order by 1;

select "100%", "x:y" as "y:z", "select" as "50%" from "Order Line" order by "100%", "y:z";

select "Order Line"."select" from shop."Order Line" where shop."Order Line"."Customer Id" = 3 order by 1;

select "Customer Id", sum("100%") as "Σ%" from "Order Line" group by "Customer Id" order by 1;

select ol."Größe" from "Order Line" as ol order by ol."Größe" nulls first, ol."100%";

select CustomerId from "Order Line";

select ID, Total AS "Total" from Orders ORDER BY ID limit 2;

-- Comments where the grammar looks ahead.
select id from orders order by total nulls /* at the */ last, id limit 2;

select id from orders where id not -- never
    in (1, 2) and note not /* % :x */ like 'a%' order by id limit 3;

select placed_at::timestamp with /* a */ time zone, x.o from orders, unnest(nums) with /* the */ ordinality x(n, o) order by id, o limit 3;

-- Schema-qualified names.
select shop.orders.total from shop.orders order by shop.orders.id limit 3;

select shop.orders.* from shop.orders order by id limit 2;

select orders.id, shop.orders.total from shop.orders where shop.orders.customer_id = 7 order by 1 limit 3;

select o.id, shop.country.name from shop.orders o join shop.country on shop.country.code = o.code order by 1 limit 3;

select shop.country.name from shop.country order by 1;

select count(*) from shop.orders where shop.orders.total > 50;

select sum(shop.orders.total) from shop.orders group by shop.orders.code order by 1;

select count(*) from shop . orders;

select count(*) from "shop"."orders";

select count(*) from shop /* here */ . /* there */ orders;

select shop.twice(3);

select x.id from shop.orders x order by shop.orders.id limit 1;

select shop.total from orders shop where shop.customer_id = 7 order by shop.id limit 2;

-- Names of output columns.
select count(*), sum(id), 1, 'a', id + 1, id::text, -id, id is null, not active, upper(note), note from orders group by id, note, active order by id limit 1;

select total::numeric, total::int4, cast(id as text), '5'::int, true, null, nullif(id, 1), coalesce(id, 1), greatest(1, id), case when active then note else 'x' end, case when active then 'x' end from orders order by id limit 1;

select array[id], row(id), (id), nums[1], attrs -> 'k', attrs ->> 's', note || 'x', note like 'a', extract(year from placed), current_date is null, note collate "C" from orders order by id limit 1;

select trim(note), substring(note from 1 for 2), position('a' in note), overlay(note placing 'x' from 1), placed at time zone 'UTC', placed + interval '1 day', interval '1 day' from orders order by id limit 1;

select exists (select 1), (select 2), (select 3 as x), array(select 1), 1 in (1), 1 = any (array[1]), 1 between 0 and 2 from lone order by v limit 1;

select id as a, total as a, note as a from orders order by id limit 2;

select date '2024-01-01', timestamp '2024-01-01', int4 '5', bool 't', "char" 'x', varchar(3) 'abc', time '01:02', bit '101' from orders order by id limit 1;

select true, false, not true, true and active from orders order by id limit 1;

select sum(total) as "Σ", avg(total) as "sum(total)", count(*) as "?column?" from orders;

select id as a_name_that_is_longer_than_the_sixty_three_bytes_that_postgresql_keeps_of_it from orders order by 1 limit 1;

-- Parameters of all types.
-- params: {"d": {"$date": "2024-03-01"}}
select :d, id from orders where placed > :d order by id limit 3;

-- params: {"d": {"$datetime": "2024-03-31T12:00:00"}, "u": {"$uuid": "9e3779b9-7f4a-7c15-f39c-c0605cedc835"}}
select :d, :u, id from orders where placed_at > :d and doc <> :u order by id limit 3;

-- params: {"l": [1, 2], "s": ["a", null], "t": {"$time": "12:00:00"}, "i": {"$interval": 3600}, "b": {"$bytes": "00ff"}}
select :l, :s, :t, :i, :b, id from orders order by id limit 2;

-- params: {"d": {"$date": "2024-03-01"}}
select :d, id from orders where id = 3;

-- params: {"d": {"$date": "2024-03-01"}}
select :d as d, count(*) from orders where placed > :d group by 1;

-- params: {"x": {"$decimal": "1.50"}, "f": 0.1, "i": 12345678901, "n": null, "b": false, "s": "é"}
select :x, :f, :i, :n, :b, :s, id from orders order by id limit 2;

-- params: {"x": {"$decimal": "NaN"}, "f": {"$float": "inf"}}
select :x, :f, id from orders order by id limit 2;

-- params: {"n": -5}
select cast(:n as text) || note from orders order by id limit 5;

-- params: {"n": -5}
select cast(:n as text) || note from orders limit 5;

-- params: {"n": -32768}
select cast(:n as smallint), id from orders order by id limit 2;

-- params: {"n": -2}
select id - :n, id ^ :n, -:n, abs(:n), :n * id from orders order by id limit 3;

-- params: {"n": -2}
select id from orders where small > :n and quantity > - :n order by id;

-- params: {"n": -1.5}
select sum(total * :n), avg(:n), count(:n) from orders;

-- params: {"x": null}
select id from orders where code is not distinct from :x order by id limit 4;

-- params: {"x": null}
select coalesce(:x, note) from orders order by id limit 4;

-- params: {"x": "month"}
select date_trunc(:x, placed_at) as m, count(*) from orders group by date_trunc(:x, placed_at) order by 1;

-- params: {"x": "de"}
select code = :x as e, count(*) from orders group by code = :x order by 1;

-- params: {"x": 3}
select quantity / :x, count(*) from orders group by quantity / :x having count(*) > :x order by 1;

-- params: {"x": ["de", "fr"]}
select code, count(*) from orders where code = any (:x) group by code order by code;

-- params: {"x": {"$tuple": ["de", "fr"]}}
select code, count(*) from orders where code in :x group by code order by code;

-- params: {"x": {"$tuple": [1, 2, 3]}}
select id from orders where id in :x and customer_id not in :x order by id;

-- params: {"x": "2024-03-01"}
select count(*) from orders where placed >= :x;

-- params: {"x": "happy"}
select count(*) from orders where status = :x;

-- params: {"x": "{\"k\": 1}"}
select count(*) from orders where attrs @> :x;

-- params: {"x": "now"}
select count(*) from orders where placed_at < :x;

-- params: {"x": ["now"]}
select count(*) from (select cast(:x as timestamptz[]) as t from orders group by 1) y;

-- params: {"x": ["now"]}
select count(*), count(cast(:x as timestamptz[])) from orders group by cast(:x as timestamptz[]);

select id from orders where id = :missing;

select $1 from orders;

-- Whole rows.
select o from orders o where customer_id < 3 order by id;

select o from orders o where customer_id = 7 order by id limit 2;

select row_to_json(o) from orders o order by id limit 3;

select to_jsonb(o) ->> 'total' from orders o order by id limit 3;

select o.to_jsonb ->> 'total' as t from orders o order by id limit 3;

select distinct o.to_jsonb ->> 'total' as t from orders o order by 1 limit 3;

select o is null, o is not null, (o).id, (o).total from orders o order by id limit 3;

select (o.*) is null, o.* from orders o order by o.id limit 1;

select o::text from lone o;

select distinct l from lone l order by 1;

select count(*) from lone a join lone b on a = b;

select a from lone a group by a order by a;

select row(v, customer_id), (v, 1) from lone order by v;

select json_build_object('c', c, 'n', (select count(*) from orders o where o.customer_id = c.customer_id)) from customers c order by customer_id limit 3;

select (spot).x, (spot).y, spot from customers order by customer_id limit 6;

select (spot).x as x, count(*) from customers group by 1 order by 1;

select count(*) from customers where spot = (1, 0) or spot::text = '(2,1)';

select x.* from (select o.customer_id, o from orders o where id < 4) x order by 1;

select jsonb_populate_record(null::point2, '{"x": 1}') from lone;

-- System columns, identifiers of objects, the server's own state.
-- refused: SP105
select ctid, id from orders;

-- refused: SP105
select tableoid::text from orders where id = 1;

-- refused: SP105
select o.xmin is null from orders o;

-- refused: SP108
select 'orders'::regclass;

-- refused: SP109
select to_regclass('orders');

-- refused: SP109
select pg_relation_size('orders') > 0;

-- refused: SP109
select id, pg_relation_size('orders') > 0 from orders order by id limit 1;

-- refused: SP107
select pg_advisory_lock(1);

-- refused: SP107
select set_config('x.y', 'z', false);

-- refused: SP101
explain select 1;

select pg_typeof(status), count(*) from orders group by 1;

select pg_typeof(o), pg_typeof(o.id) from orders o order by o.id limit 1;

select id, pg_typeof(total) from orders order by id limit 1;

-- Time.
select count(distinct now()), count(distinct current_timestamp), count(distinct statement_timestamp()) from orders;

select now() = transaction_timestamp(), current_date = now()::date, localtimestamp = now() from orders limit 1;

select count(*) from (select now() as t from orders group by t) x;

select count(*) from orders where placed_at < now() and placed < current_date and placed < 'today'::date and placed < 'tomorrow';

select count(*) from orders where placed_at > now() - interval '100 years';

select count(*) from (select ('n' || 'ow')::timestamptz as t from orders group by 1) x;

select count(*), count(('n' || 'ow')::timestamptz) from orders group by ('n' || 'ow')::timestamptz;

select count(*) from orders group by cast(concat('n', 'ow') as timestamptz);

select count(*) from orders where note = 'now' group by note::timestamptz;

select count(*) from (select case when random() < 2 then 1 end as r from orders group by 1) x;

select count(distinct r) > 1 from (select random() as r from orders) x;

select count(distinct gen_random_uuid()) from orders;

select placed, placed::timestamptz, placed_at::date, placed_at::time, to_char(placed_at, 'YYYY-MM-DD HH24:MI'), date_part('dow', placed) from orders order by id limit 5;

select placed_at::date as d, count(*) from orders group by 1 order by 1;

select placed - date '2024-01-01' as n, placed + 1, placed_at - interval '1 month', age(timestamp '2024-03-31', placed::timestamp) from orders order by id limit 5;

select sum(placed - date '2024-01-01') from orders;

select age(placed) is null, count(*) from orders group by 1 order by 1;

-- Set-returning functions.
select id, unnest(nums) from orders where id < 12 order by 1, 2;

select generate_series(1, 3), v from lone order by 1, 2;

select unnest(nums) as n, count(*) from orders group by n order by n;

select generate_series(1, quantity % 3) as g, id from orders where quantity > 0 and id < 20 order by 2, 1;

select count(*) from generate_series(1, 10) g left join orders o on o.customer_id = g;

select g, count(o.id) from generate_series(1, 10) g left join orders o on o.customer_id = g group by g order by g;

select * from generate_series(1, 3) with ordinality;

select jsonb_object_keys(attrs) as k, count(*) from orders group by 1 order by 1;

select regexp_split_to_table(note, ' ') as w, count(*) from orders group by 1 order by 1;

-- JSON.
select id, attrs -> 'k', attrs ->> 's', attrs @> '{"k": 1}', attrs ? 'k', attrs #>> '{s}' from orders order by id limit 9;

select customer_id, profile -> 'deep' ->> 'k', profile #> '{list,2}', jsonb_array_length(profile -> 'list') from customers order by 1;

select customer_id, jsonb_path_query_first(profile, '$.list[*] ? (@ == 1)') from customers order by 1;

select json_build_object('id', id, 'n', note), jsonb_build_array(id, total, null) from orders order by id limit 3;

select count(*) from orders where attrs ->> 's' = 'x1' and (attrs ->> 'k')::int > 1;

select profile['deep']['k'], tags[1], tags[1:2], array_length(tags, 1), cardinality(tags) from customers order by customer_id;

select x.k, count(*) from orders o, jsonb_to_recordset(jsonb_build_array(o.attrs)) as x(k int, s text) group by 1 order by 1;

-- since: 16
select json_object('a': id), json_array(id, note) from orders order by id limit 2;

-- since: 17
select json_value(attrs, '$.s'), json_query(attrs, '$.k'), json_exists(attrs, '$.zz') from orders order by id limit 5;

-- since: 16
select attrs is json object, '{' is json, attrs::text is json scalar from orders order by id limit 5;

-- since: 16
select json_objectagg(id : note returning jsonb) from orders where id < 4;

-- Arrays, ranges, enums, domains, generated columns.
select id, nums || 9, nums @> array[1], nums[1], array_remove(nums, 1), array_to_string(nums, ',', '-') from orders order by id limit 9;

select id, span * int4range(0, 3), span @> 2, lower(span), upper(span), isempty(span) from orders order by id limit 9;

select id from orders where span && int4range(4, 9) order by id;

select id, status > 'sad', status::text, enum_range(status) from orders order by id limit 9;

select id, status = any (moods), moods[1], 'sad' = any (moods) from orders order by id limit 9;

select customer_id, age, age + 1 from customers where age > 40 order by 1;

select id, quantity, cents from orders order by id;

select sum(cents), max(cents) from orders where cents > 100;

select id, padded, length(padded), padded = 'ab', padded || '|' from orders order by id limit 9;

select id, weight = 0.1, ratio = 0.1, ratio::float8 from orders order by id limit 9;

-- Functions of the user.
select id, twice(quantity), shop.twice(1) from orders order by id limit 3;

select sum(twice(quantity)) from orders;

select lower(status) as l, lower(note), count(*) from orders group by status, note order by 1, 2 limit 5;

select id, name_of(code) from orders order by id limit 9;

select id, name_of(code) from orders where customer_id = 3 order by id;

select number_of_orders() from orders where customer_id = 3;

select id, number_of_orders() from orders where customer_id in (3, 4) order by id;

select id, total_of(7) from orders where customer_id = 3 order by id;

select code, name_of(code) from country order by 1;

select twice(4), name_of('de');

-- refused: SP116
select number_of_orders();

-- refused: SP116
select count(*), max(number_of_orders()) from items;

-- A table's row type belongs to every partition.
-- refused: SP117
select (null::orders).total is null from orders where customer_id = 7 limit 1;

-- refused: SP117
select jsonb_populate_record(null::orders, '{"id": 5}')::text from orders where id = 1;

select (null::point2).x is null, (row(1, 2)::point2).y, 'orders'::text from lone;

select c.code, (c).name from country c where (null::country).code is null order by 1;

-- TABLESAMPLE.
select count(*) from orders tablesample bernoulli (100);

select count(*) from orders tablesample system (100) repeatable (1) where customer_id = 7;

select count(*) from orders tablesample bernoulli (0);

select count(*) from country tablesample bernoulli (100);

select count(*) from orders tablesample bernoulli (50) where customer_id = 7 and false;

-- Errors are errors on both sides.
select 1 / (total - total) from orders where total is not null;

select note::int from orders;

select no_such_column from orders;

select no_such_function(id) from orders;

select id from orders where;

select sum(note) from orders;

select id + note from orders;

select orders.id from orders o;

select * from only orders where id = 3;

select id from orders where note ~ '[';

select from orders where id = 3;

select from orders order by id limit 2;

select all id from orders order by id limit 2;

select count(*) from orders where true and (((customer_id))) = (((7)));

select * from orders o where o.customer_id = 7 and o.id = 3;

-- The current time is the same for all rows and shards.
-- rung: pushdown
select count(distinct now()), count(distinct current_timestamp), count(*) from orders;

-- rung: pushdown
select count(*) from orders where placed_at < now() - interval '1 day' and placed <= current_date;

-- rung: pushdown
select code, max(now() - placed_at) > interval '1 day', min(current_date - placed) > 1 from orders group by code order by code;

-- rung: stages
select count(*) from orders o join people p on p.login = o.note where o.placed_at < statement_timestamp() and localtimestamp > '2020-01-01'::timestamp;

select now() = current_timestamp, now()::date = current_date, count(*) from orders group by 1, 2;

select count(*) from (select distinct now() from orders union select now() from items) x;

select x.now > '2020-01-01'::timestamptz from (select now(), id from orders) x where x.id < 4;

select count(*) from orders where placed_at < current_timestamp(0) + interval '1 second';
