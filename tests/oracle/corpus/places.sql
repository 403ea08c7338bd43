-- Subqueries in every place where the grammar has one; pinned to the same key they all run on one partition.

-- rung: single
select o.id from orders o where o.customer_id = 7 order by o.id limit (select max(i.line) from items i where i.customer_id = 7);

select o.id from orders o where o.customer_id = 7 order by o.id limit (select max(i.line) from items i where i.customer_id < 9);

-- rung: single
select o.id from orders o where o.customer_id = 7 order by o.id offset (select max(i.line) from items i where i.customer_id = 7);

select o.id from orders o where o.customer_id = 7 order by o.id offset (select max(i.line) from items i where i.customer_id < 9);

-- rung: single
select o.id, rank() over (order by o.id + (select max(i.line) from items i where i.customer_id = 7)) from orders o where o.customer_id = 7 order by 1;

select o.id, rank() over (order by o.id + (select max(i.line) from items i where i.customer_id < 9)) from orders o where o.customer_id = 7 order by 1;

-- rung: single
select o.id, rank() over w from orders o where o.customer_id = 7 window w as (partition by (select max(i.line) from items i where i.customer_id = 7) order by o.id) order by 1;

select o.id, rank() over w from orders o where o.customer_id = 7 window w as (partition by (select max(i.line) from items i where i.customer_id < 9) order by o.id) order by 1;

-- rung: single
select count(*) filter (where o.id > (select max(i.line) from items i where i.customer_id = 7)) from orders o where o.customer_id = 7;

select count(*) filter (where o.id > (select max(i.line) from items i where i.customer_id < 9)) from orders o where o.customer_id = 7;

-- rung: single
select array_agg(o.id order by o.id % (select max(i.line) from items i where i.customer_id = 7), o.id) from orders o where o.customer_id = 7;

select array_agg(o.id order by o.id % (select max(i.line) from items i where i.customer_id < 9), o.id) from orders o where o.customer_id = 7;

-- rung: single
select percentile_disc(0.5) within group (order by o.id + (select max(i.line) from items i where i.customer_id = 7)) from orders o where o.customer_id = 7;

select percentile_disc(0.5) within group (order by o.id + (select max(i.line) from items i where i.customer_id < 9)) from orders o where o.customer_id = 7;

-- rung: single
select o.id % (select max(i.line) from items i where i.customer_id = 7), count(*) from orders o where o.customer_id = 7 group by o.id % (select max(i.line) from items i where i.customer_id = 7) order by 1;

select o.id % (select max(i.line) from items i where i.customer_id < 9), count(*) from orders o where o.customer_id = 7 group by o.id % (select max(i.line) from items i where i.customer_id < 9) order by 1;

-- rung: single
select count(*) from orders o where o.customer_id = 7 having count(*) > (select max(i.line) from items i where i.customer_id = 7);

select count(*) from orders o where o.customer_id = 7 having count(*) > (select max(i.line) from items i where i.customer_id < 9);

-- rung: single
select distinct on (o.id % (select max(i.line) from items i where i.customer_id = 7)) o.id % (select max(i.line) from items i where i.customer_id = 7) as m from orders o where o.customer_id = 7 order by o.id % (select max(i.line) from items i where i.customer_id = 7);

select distinct on (o.id % (select max(i.line) from items i where i.customer_id < 9)) o.id % (select max(i.line) from items i where i.customer_id < 9) as m from orders o where o.customer_id = 7 order by o.id % (select max(i.line) from items i where i.customer_id < 9);

-- rung: single
select v.x, o.id from orders o, (values ((select max(i.line) from items i where i.customer_id = 7)), (2)) v(x) where o.customer_id = 7 order by 2, 1;

select v.x, o.id from orders o, (values ((select max(i.line) from items i where i.customer_id < 9)), (2)) v(x) where o.customer_id = 7 order by 2, 1;

-- rung: single
select g, o.id from orders o, generate_series(1, (select max(i.line) from items i where i.customer_id = 7)) g where o.customer_id = 7 order by 2, 1;

select g, o.id from orders o, generate_series(1, (select max(i.line) from items i where i.customer_id < 9)) g where o.customer_id = 7 order by 2, 1;

-- rung: single
select g.a, o.id from orders o, rows from (generate_series(1, (select max(i.line) from items i where i.customer_id = 7)), generate_series(1, 2)) g(a, b) where o.customer_id = 7 order by 2, 1;

select g.a, o.id from orders o, rows from (generate_series(1, (select max(i.line) from items i where i.customer_id < 9)), generate_series(1, 2)) g(a, b) where o.customer_id = 7 order by 2, 1;

-- rung: single
select count(*) from orders o where o.customer_id = 7 and o.id = any(array(select i.order_id from items i where i.customer_id = 7));

select count(*) from orders o where o.customer_id = 7 and o.id = any(array(select i.order_id from items i where i.customer_id < 9));

-- rung: single
select count(*) from orders o where o.customer_id = 7 and (o.id, 1) in (select i.order_id, i.line from items i where i.customer_id = 7);

select count(*) from orders o where o.customer_id = 7 and (o.id, 1) in (select i.order_id, i.line from items i where i.customer_id < 9);

-- rung: single
select count(*) from orders o where o.customer_id = 7 and row(o.id, 1) <> all (select i.order_id, i.line from items i where i.customer_id = 7);

select count(*) from orders o where o.customer_id = 7 and row(o.id, 1) <> all (select i.order_id, i.line from items i where i.customer_id < 9);

-- rung: single
select case when (select max(i.line) from items i where i.customer_id = 7) > 1 then o.id end from orders o where o.customer_id = 7 order by 1;

select case when (select max(i.line) from items i where i.customer_id < 9) > 1 then o.id end from orders o where o.customer_id = 7 order by 1;

-- rung: single
select coalesce((select max(i.line) from items i where i.customer_id = 7), 1), greatest((select max(i.line) from items i where i.customer_id = 7), 1), nullif((select max(i.line) from items i where i.customer_id = 7), 3), array[(select max(i.line) from items i where i.customer_id = 7)], row((select max(i.line) from items i where i.customer_id = 7)), ((select max(i.line) from items i where i.customer_id = 7))::text, (select max(i.line) from items i where i.customer_id = 7) is null from orders o where o.customer_id = 7 limit 1;

select coalesce((select max(i.line) from items i where i.customer_id < 9), 1), greatest((select max(i.line) from items i where i.customer_id < 9), 1), nullif((select max(i.line) from items i where i.customer_id < 9), 3), array[(select max(i.line) from items i where i.customer_id < 9)], row((select max(i.line) from items i where i.customer_id < 9)), ((select max(i.line) from items i where i.customer_id < 9))::text, (select max(i.line) from items i where i.customer_id < 9) is null from orders o where o.customer_id = 7 limit 1;

-- rung: single
select count(*) from orders o join customers c on c.customer_id = o.customer_id and o.id > (select max(i.line) from items i where i.customer_id = 7) where o.customer_id = 7;

select count(*) from orders o join customers c on c.customer_id = o.customer_id and o.id > (select max(i.line) from items i where i.customer_id < 9) where o.customer_id = 7;

-- rung: single
select count(*) from orders o left join customers c on c.customer_id = o.customer_id and o.id > (select max(i.line) from items i where i.customer_id = 7) where o.customer_id = 7;

select count(*) from orders o left join customers c on c.customer_id = o.customer_id and o.id > (select max(i.line) from items i where i.customer_id < 9) where o.customer_id = 7;

-- rung: single
select count(*) from (orders o join (customers c join short s on s.customer_id = c.customer_id and s.customer_id > (select max(i.line) from items i where i.customer_id = 7)) on c.customer_id = o.customer_id) where o.customer_id = 7;

select count(*) from (orders o join (customers c join short s on s.customer_id = c.customer_id and s.customer_id > (select max(i.line) from items i where i.customer_id < 9)) on c.customer_id = o.customer_id) where o.customer_id = 7;

-- rung: single
with x as (select (select max(i.line) from items i where i.customer_id = 7) as m) select o.id, x.m from orders o, x where o.customer_id = 7 order by 1;

with x as (select (select max(i.line) from items i where i.customer_id < 9) as m) select o.id, x.m from orders o, x where o.customer_id = 7 order by 1;

-- rung: single
with recursive x(n) as (select 1 union all select n + 1 from x where n < (select max(i.line) from items i where i.customer_id = 7)) select o.id, x.n from orders o, x where o.customer_id = 7 order by 1, 2;

with recursive x(n) as (select 1 union all select n + 1 from x where n < (select max(i.line) from items i where i.customer_id < 9)) select o.id, x.n from orders o, x where o.customer_id = 7 order by 1, 2;

-- rung: single
select o.id from orders o where o.customer_id = 7 union all select (select max(i.line) from items i where i.customer_id = 7) order by 1;

select o.id from orders o where o.customer_id = 7 union all select (select max(i.line) from items i where i.customer_id < 9) order by 1;

-- rung: single
select o.id from orders o where o.customer_id = 7 union all (select 1 order by (select max(i.line) from items i where i.customer_id = 7)) order by 1;

select o.id from orders o where o.customer_id = 7 union all (select 1 order by (select max(i.line) from items i where i.customer_id < 9)) order by 1;

-- rung: single
select (select (select (select max(i.line) from items i where i.customer_id = 7))) from orders o where o.customer_id = 7 limit 1;

select (select (select (select max(i.line) from items i where i.customer_id < 9))) from orders o where o.customer_id = 7 limit 1;

-- rung: single
select exists (select 1 from country where population > (select max(i.line) from items i where i.customer_id = 7)) from orders o where o.customer_id = 7 limit 1;

select exists (select 1 from country where population > (select max(i.line) from items i where i.customer_id < 9)) from orders o where o.customer_id = 7 limit 1;

-- since: 16
-- rung: single
select json_build_object('a', (select max(i.line) from items i where i.customer_id = 7)), json_object('a': (select max(i.line) from items i where i.customer_id = 7)) from orders o where o.customer_id = 7 limit 1;

-- since: 16
select json_build_object('a', (select max(i.line) from items i where i.customer_id < 9)), json_object('a': (select max(i.line) from items i where i.customer_id < 9)) from orders o where o.customer_id = 7 limit 1;

-- rung: single
select o.nums[(select max(i.line) from items i where i.customer_id = 7)], o.nums[1:(select max(i.line) from items i where i.customer_id = 7)] from orders o where o.customer_id = 7 order by o.id limit 3;

select o.nums[(select max(i.line) from items i where i.customer_id < 9)], o.nums[1:(select max(i.line) from items i where i.customer_id < 9)] from orders o where o.customer_id = 7 order by o.id limit 3;

-- since: 17
-- rung: single
select t.a from orders o, json_table(json_build_array((select max(i.line) from items i where i.customer_id = 7)), '$[*]' columns (a int path '$')) t where o.customer_id = 7 order by o.id limit 2;

-- since: 17
select t.a from orders o, json_table(json_build_array((select max(i.line) from items i where i.customer_id < 9)), '$[*]' columns (a int path '$')) t where o.customer_id = 7 order by o.id limit 2;

-- rung: single
select o.note collate "C" || (select max(i.line) from items i where i.customer_id = 7) from orders o where o.customer_id = 7 order by 1 limit 2;

select o.note collate "C" || (select max(i.line) from items i where i.customer_id < 9) from orders o where o.customer_id = 7 order by 1 limit 2;

-- rung: single
select o.id between (select max(i.line) from items i where i.customer_id = 7) and 9, o.note like (select max(i.line) from items i where i.customer_id = 7)::text, o.id is distinct from (select max(i.line) from items i where i.customer_id = 7) from orders o where o.customer_id = 7 order by o.id limit 2;

select o.id between (select max(i.line) from items i where i.customer_id < 9) and 9, o.note like (select max(i.line) from items i where i.customer_id < 9)::text, o.id is distinct from (select max(i.line) from items i where i.customer_id < 9) from orders o where o.customer_id = 7 order by o.id limit 2;

-- rung: single
select xmlelement(name a, (select max(i.line) from items i where i.customer_id = 7))::text from orders o where o.customer_id = 7 limit 1;

select xmlelement(name a, (select max(i.line) from items i where i.customer_id < 9))::text from orders o where o.customer_id = 7 limit 1;

-- rung: single
select o.placed_at at time zone (select 'UTC' from items i where i.customer_id = 7 limit 1) from orders o where o.customer_id = 7 order by o.id limit 2;

select o.placed_at at time zone (select 'UTC' from items i where i.customer_id < 9 limit 1) from orders o where o.customer_id = 7 order by o.id limit 2;

-- rung: single
values ((select max(i.line) from items i where i.customer_id = 7)), (2) order by 1;

values ((select max(i.line) from items i where i.customer_id < 9)), (2) order by 1;

-- rung: single
select * from (select (select max(i.line) from items i where i.customer_id = 7) as m) a natural join (select (select max(i.line) from items i where i.customer_id = 7) as m) b;

select * from (select (select max(i.line) from items i where i.customer_id < 9) as m) a natural join (select (select max(i.line) from items i where i.customer_id < 9) as m) b;

-- rung: single
select count(*) from country tablesample bernoulli ((select max(i.line) from items i where i.customer_id = 7) * 100);

select count(*) from country tablesample bernoulli ((select max(i.line) from items i where i.customer_id < 9) * 100);

-- rung: single
select lead(o.id, (select max(i.line) from items i where i.customer_id = 7)) over (order by o.id) from orders o where o.customer_id = 7 order by o.id limit 3;

select lead(o.id, (select max(i.line) from items i where i.customer_id < 9)) over (order by o.id) from orders o where o.customer_id = 7 order by o.id limit 3;

-- rung: single
select sum(o.id) over (order by o.id rows between (select max(i.line) from items i where i.customer_id = 7) preceding and current row) from orders o where o.customer_id = 7 order by o.id limit 3;

select sum(o.id) over (order by o.id rows between (select max(i.line) from items i where i.customer_id < 9) preceding and current row) from orders o where o.customer_id = 7 order by o.id limit 3;

-- rung: single
select o.id from orders o where o.customer_id = 7 order by o.id fetch first ((select max(i.line) from items i where i.customer_id = 7)) rows only;

select o.id from orders o where o.customer_id = 7 order by o.id fetch first ((select max(i.line) from items i where i.customer_id < 9)) rows only;
