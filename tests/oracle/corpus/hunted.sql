-- Statements from the hunt: groups, merged columns, outer joins, row values, names.

select o.id, o.total from orders o order by o.id limit 3 offset 2;

select min((spot).x) from customers;

select greatest(spot, spot) as g, customer_id from customers order by 2;

select case when true then spot end as c from customers order by customer_id;

select array_agg(x) from (select spot as x from customers order by customer_id) y;

select distinct on (login) login, age from people order by login, age;

select sum(v) from (select v from short s join tiny t using (customer_id)) x(k, v);

select count(*) from orders where id = any(select order_id from items);

select id, (select id from items i where i.order_id = o.id limit 1) from orders o order by id;

select o.id from orders o where (select count(*) from items i where i.customer_id = o.customer_id) > 100 order by 1;

select code from (select code, sum(total) s from orders group by code) x where s = (select max(s) from (select sum(total) s from orders group by code) y);

select o.id from orders o order by o.total nulls first, id limit 4;

select min(id) from orders group by customer_id % 3 order by customer_id % 3;

select customer_id % 3 from orders group by customer_id % 3 order by 1;

select 1 as x from orders group by x;

select id as "a b", total as "c""d" from orders order by "a b" limit 1;

select id from orders where note = any(array['now', 'today']) order by id;

select count(*) from orders where placed > 'yesterday';

select count(*) from orders where placed in ('2024-03-01', 'today');

select s.customer_id, sum(s.id) from short s left join tiny t on t.customer_id = s.customer_id and t.v is null group by 1 order by 1;

select count(*) from short s left join tiny t on t.customer_id = s.customer_id where t.customer_id = s.customer_id;

select customer_id, count(*) from short left join tiny using (customer_id) group by customer_id order by 1;

select customer_id, sum(customer_id), avg(customer_id) from short right join tiny using (customer_id) group by customer_id order by 1;

select sum(customer_id), max(customer_id) from short right join tiny using (customer_id);

select sum(customer_id) from short join tiny using (customer_id);

select sum(customer_id) from orders join short using (customer_id);

select max(customer_id) from tiny right join short using (customer_id);

select login, count(*) from people join logins using (login) group by login order by login;

select login, count(*) from people right join logins using (login) group by login order by login;

select max(login), min(login) from people right join logins using (login);

select login from logins right join people using (login) order by login;

select max(login) from logins join people using (login);

select a.login, a.n + b.age as s from logins a join people b using (login) order by 1, 2;

select entry from ledger natural join balances order by region, account, entry;

select region, account, count(*) from ledger left join balances using (region, account) group by region, account order by 1, 2;

select account, sum(account) from ledger right join balances using (region, account) group by account order by 1;

select extract(epoch from placed_at) as e, avg(extract(epoch from placed_at)) from orders group by 1 order by 1 limit 3;

select sum(extract(day from placed)) from orders;

select avg(length(note)), sum(length(note)) from orders;

select sum(coalesce(quantity, 0)), avg(coalesce(total, 0)) from orders;

select sum(case when active then 1 else 0 end) from orders;

select sum(total)::numeric(10,1), round(sum(total), 1), sum(total) * 1.10 from orders;

select count(*) * 2, count(*) + sum(id), max(id) - min(id) from orders;

select coalesce(sum(v), 0), coalesce(max(v), -1) from nothing;

select customer_id, coalesce(sum(total), 0) from orders group by customer_id order by 2, 1;

select (array_agg(id order by id))[1] from orders;

select max(id) filter (where code = 'de') - min(id) filter (where code = 'fr') from orders;

select max(total) from orders where customer_id in (select customer_id from customers where vip);

select case when count(*) > 5 then 'many' else 'few' end, code from orders group by code order by code;

select grouping(code), code, count(*) from orders group by code order by 2;

select code, count(*) from orders group by code, code order by code;

select code as a, code as b, count(*) from orders group by a, b order by a;

select code as a, count(*) from orders group by a having a = 'de';

select count(*), count(*) from orders;

select sum(total) a, sum(total) b from orders;

select avg(total), sum(total), count(total), avg(total) filter (where id > 5) from orders;

select avg(v), avg(v::numeric), avg(v::real), avg(v::float8) from tiny;

select avg(0.1::real), sum(0.1::real) from orders;

select sum(ratio) from orders;

select customer_id, sum(ratio), avg(ratio) from orders group by 1 order by 1;

select sum(null::int), avg(null::numeric) from orders;

select sum(null) from orders;

select max(null) from orders;

select max('x') from orders;

select max('x'), code from orders group by code order by code;

select min(1) from orders;

select max(id), 'a', null, 1.5, true from orders;

select count(null), count(1), count('x') from orders;

select count(total) filter (where total is null) from orders;

select bool_and(null) from orders;

select id from orders where active order by id limit 3;

-- since: 16
select id, note from orders where note is json order by id;

select 'ok'::shop.mood, status::shop.mood from orders order by id limit 1;

select count(*) from orders where id in (1,2,3) and customer_id in (select 7);

select * from orders, generate_series(1, 2) where customer_id = 3 order by id, 25;

select generate_series from generate_series(1, 3);

select id from orders where customer_id = 7 order by id limit 3;

select count(*) from orders where customer_id = 7 -- trailing comment;

select sum(9999999999999999999999999) from orders;

select total from orders order by total using > limit 3;

select id as id, total from orders order by orders.id limit 2;

select o.id as total, o.total as id from orders o order by o.total desc nulls last, o.id limit 3;

select id from orders order by orders limit 2;

select customer_id, customer_id from orders order by customer_id limit 1;

select customer_id c, customer_id c from orders order by c limit 1;

select id from orders where customer_id = 7 union all select id from orders where customer_id = 7 order by id limit 4;

select * from (orders o join items i on o.customer_id = i.customer_id and o.id = i.order_id) where o.id < 5 order by o.id, i.line;

select * from (select id, customer_id from orders) o where customer_id = 7 order by id limit 2;

select count(*) from (select * from orders where customer_id = 7) o join items i on i.customer_id = o.customer_id;

select count(*) from orders o join (select customer_id, max(line) as m from items group by customer_id) i on i.customer_id = o.customer_id and o.customer_id = 7;

select (select sum(i.qty) from items i where i.customer_id = o.customer_id and i.order_id = o.id) as s, count(*) from orders o where customer_id = 7 group by 1 order by 1;

select o.customer_id from orders o where o.customer_id = 7 and o.id in (select i.order_id from items i where i.customer_id = o.customer_id and i.line = 2) order by o.id;

select count(*) from orders o where o.customer_id = 7 and o.id in (select i.order_id from items i where i.line = 2);

select (select o.total from orders o where o.customer_id = c.customer_id and o.id = 1) from customers c where c.customer_id = 7;

select (select count(*) from orders) from customers c where c.customer_id = 7;

select c.customer_id, x.s from customers c left join lateral (select sum(o.total) as s from orders o where o.customer_id = c.customer_id) x on true where c.customer_id = 7;

select c.customer_id from customers c where c.customer_id = 7 and (select count(*) from orders o where o.customer_id = c.customer_id and exists (select from items i where i.customer_id = o.customer_id)) > 3;

select c.customer_id from customers c where c.customer_id = 7 and (select count(*) from orders o where exists (select from items i where i.customer_id = o.customer_id and i.customer_id = c.customer_id)) > 3;

select c.customer_id, o.id from customers c left join orders o using (customer_id) left join items i using (customer_id) where customer_id = 3 order by 1, 2, i.order_id, i.line limit 5;

select c.customer_id, n.v, count(*) over () from customers c left join nothing n using (customer_id) where customer_id = 3 or n.v is null order by 1;

select c.customer_id from customers c left join nothing n on n.customer_id = c.customer_id and n.v > 5 where n.customer_id is null and c.customer_id in (3, 7) order by 1;

select s.customer_id, count(*) filter (where t.v is null) from short s left join tiny t on t.customer_id = s.customer_id and t.customer_id in (1, 7) group by 1 order by 1;

select count(*) from short s left join tiny t on t.customer_id = s.customer_id and t.customer_id in (1, 7) where s.customer_id in (1, 2);

select count(*) from tiny t right join short s on t.customer_id = s.customer_id and s.customer_id = 1;

select s.id, t.v from short s full join tiny t on s.customer_id = t.customer_id where s.customer_id = 1 and t.customer_id = 1 order by 1, 2;

select s.id, t.v from short s full join tiny t on s.customer_id = t.customer_id where s.customer_id = 1 order by 1, 2;

select s.id, t.v, l.v from (short s full join tiny t on s.customer_id = t.customer_id) left join lone l on l.customer_id = s.customer_id where s.customer_id = 3 order by 1, 2, 3;

select SHOP.Orders.Total from SHOP.Orders order by SHOP.orders.ID limit 2;

select U&"shop".orders.id from U&"shop".U&"orders" order by 1 limit 1;

select count(shop.orders.*) from shop.orders where shop.orders.customer_id = 7;

select count(*) from only shop.orders;

select count(*) from only (shop.orders);

select count(*) from shop.orders *;

table shop.lone;

table orders order by id limit 1;

select shop.twice(shop.orders.quantity) from shop.orders order by shop.orders.id limit 3;

select id, (select max(shop.items.line) from shop.items where shop.items.order_id = shop.orders.id) from shop.orders order by id limit 3;

select shop.orders.nums[1], shop.orders.attrs -> 'k' from shop.orders order by id limit 3;

with x as (select shop.orders.id from shop.orders where exists (select from shop.items where shop.items.order_id = shop.orders.id)) select count(*) from x;

select (shop.orders.attrs ->> 'k')::int as k, count(*) from shop.orders group by (shop.orders.attrs ->> 'k')::int order by 1;

select count(*) from shop.orders o, shop.orders where o.id = shop.orders.id + 1;

select (o).* from orders o order by id limit 1;

select array_agg(o order by o.id) from lone l join orders o using (customer_id) where o.id < 100;

select (array_agg(o order by o.id))[1].id from orders o;

select row(o.*) is null from lone o;

select json_build_object('x', o) from lone o order by o.v;

select xmlforest(l.v as a) from lone l order by l.v;

select (x.o).total from (select o from orders o where id = 1) x;

select x.o from (select o, o.id from orders o) x order by x.id limit 1;

select (select l from lone l where l.v = 1);

select id.id from orders id order by id.id limit 1;

select id from orders id order by 1 limit 1;

select count(id) from orders id;

select orders from lone orders order by 1;

select lone.lone from (select 1 as lone) lone;

select a.customer_id, b.v from lone a join lone b using (customer_id, v) order by 2;

select j.* from (lone l join tiny t using (v)) j order by 1;

select k.customer_id from lone join tiny using (customer_id) as k order by 1 limit 1;

select k from lone join tiny using (customer_id) as k order by 1 limit 1;

select total + 1 + 2, count(*) from orders group by total + 1 order by 1;

select 2 * (total + 1) as x, count(*) from orders group by total + 1 order by 1;

select o.code, code, count(*) from orders o group by o.code order by code;

select total in (1, 2) as x, count(*) from orders group by total in (1, 2) order by 1;

select case when code = 'de' then 1 end as x, sum(case when code = 'de' then 1 end) from orders group by case when code = 'de' then 1 end order by 1;

select coalesce(max(total), min(total), 0) + count(*) from orders group by code order by 1;

select max(total) - min(total) as spread, code from orders group by code having max(total) - min(total) > 10 order by spread, code;

select count(*) filter (where note like 'a%') * 100.0 / count(*) from orders;

select sum(total) / nullif(sum(quantity), 0) from orders;

select sum(total)::text || ' EUR' from orders;

select avg(total)::numeric(8,2), to_char(sum(total), '999G999D99') from orders;

select date_trunc('week', placed_at) as w, count(*), sum(sum(total)) over (order by date_trunc('week', placed_at)) from orders group by 1 order by 1;

select code, sum(total), rank() over (order by sum(total) desc nulls last) from orders group by code order by 3, 1;

select id from orders where note like any (array['a%', 'z%']) order by id;

select id from orders where total between symmetric 50 and 10 order by id;

select id from orders where (code, status) is distinct from ('de', 'ok') order by id limit 5;

select id from orders where row(code, id) > row('de', 5) order by id limit 5;

select id from orders where (placed, placed + 10) overlaps (date '2024-02-01', date '2024-02-03') order by id;

select id from orders where total similar to '1' or note similar to '(a|z)%' order by id;

select id from orders where note ~* '^A' order by id;

select id from orders where not exists (select 1 where false) order by id limit 1;

select id from orders where null order by id;

select id from orders where active is unknown order by id limit 3;

select count(*) from orders where (total > 5) = (quantity > 5);

select count(*) from orders where total > 5 is true;

select -(-total) as a, +total as b, - total as c from orders order by id limit 2;

select total ^ 2, |/ 4.0, @ -5, 5 ! from orders limit 1;

select total::int % 3, quantity & 3, quantity | 1, quantity # 2, ~quantity, quantity << 1 from orders order by id limit 4;

select '{"a": [1, 2]}'::jsonb #> '{a,0}', '[1,2]'::jsonb @> '1', attrs || '{"z": 1}', attrs - 'k' from orders order by id limit 2;

select interval '1 day' * id, placed + interval '1 month' * 2, placed_at at time zone 'Asia/Tokyo' from orders order by id limit 2;

select extract(epoch from wait), justify_hours(wait), wait > '1 day' from orders order by id limit 4;

select to_char(total, 'FM999.00'), to_char(placed, 'Mon DD'), to_date('2024-01-01', 'YYYY-MM-DD') from orders order by id limit 2;

select string_to_array(note, ' '), regexp_match(note, 'p+'), regexp_replace(note, 'p', 'q', 'g'), format('%s-%I', id, note) from orders order by id limit 4;

select width_bucket(total, 0, 100, 10) as b, count(*) from orders group by b order by b;

select md5(note), sha256(note::bytea), encode(note::bytea, 'hex'), length(note::bytea) from orders order by id limit 2;

select greatest(total, 5, null), least(quantity, total), nullif(code, 'de'), num_nulls(code, note, total) from orders order by id limit 4;

select array[id, 2], array[[1, 2], [3, 4]], nums || null, array_position(nums, 1), nums = '{1}' from orders order by id limit 4;

select int4range(1, id::int), span + int4range(1, 3), span -|- int4range(5, 6), upper_inf(span) from orders where id < 4 and span is null order by id;

select customer_id, tags[array_upper(tags, 1)], unnest(tags) from customers order by 1, 3 limit 5;

select customer_id, (select count(*) from unnest(tags) t where t = 'a') from customers order by 1 limit 5;

select customer_id from customers where 'a' = any (tags) and not ('b' = any (tags)) order by 1;

select customer_id from customers where profile ->> 'n' = '7' or profile -> 'list' ? 'x' and customer_id < 4 order by 1;

select customer_id from customers where born > date '2000-01-01' - interval '1 year' * level order by 1;

-- refused: SP105
select x.cmin from (select 1 as cmin) x;

-- Rows without columns are rows.
select from lone where customer_id = 3;

select from generate_series(1, 3);

select from lone;

select count(*) from (select from lone where customer_id = 3) x;

-- An aggregate of outer columns alone makes the outer query a grouped one.
select (select max(l.n) from country) from logins l;

select (select max(l.n) from country c where c.customer_id = 7) as m from logins l;

select l.login, (select max(l.n) from country c where c.code = 'de') as m from logins l group by l.login order by 1;

with w as materialized (select cents from orders where customer_id is null) select (select max(l.n) from w) from logins l where l.login = any (array['user3', 'north']);

select (select 1 from country c where c.customer_id = max(l.n)) from logins l;

select l.login from logins l group by l.login having exists (select from country c where c.customer_id = max(l.n)) order by 1;

select (select max(l.n + c.population) from country c) from logins l order by 1;

select (select max((select max(p.age) from people p where p.login = l.login))) as m from logins l;

select (select max((select p.age from people p where p.login = l.login)) filter (where l.n < 10)) as m from logins l;

select l.login, (select max((select c.population from country c where c.customer_id = x.n)) from (values (7), (l.n)) x (n)) as m from logins l order by 1, 2;

-- An aggregate that only ORDER BY, DISTINCT ON or a window has makes a query a grouped one too.
select 1 as one from orders order by count(*);

select distinct on (count(*)) 1 as one from orders;

select 1 as one from orders window w as (order by count(*));

select rank() over w from orders window w as (order by count(*));

select count(*) from (select 1 from orders window w as (partition by max(id))) x;

-- What no row asks for is not computed: here a smallint out of range.
select sum(-t.small) as quantity from orders t order by 1 desc limit 0;

select sum(-t.small) as quantity from orders t;

-- A column that USING merged, and another table's of that name.
select t3.account from ((daily t1 join people t2 using (customer_id)) left join ledger t3 on t3.region = t2.login) where customer_id <= 1;

select 1 / (id - 5) from orders where customer_id in (7, 3) limit 0;

select 10 / id from orders where id > 0 limit 0;

-- A condition that is false by a NOT NULL lets FULL JOIN pass.
select t1.id, t2.page from (void t1 full join visits t2 on t2.visit_id is null) order by t2.page;

select t.n from country c full join logins t on t.login is null order by 1;

-- From here on: the elements of an array of rows are columns, a cast after a parameter, fields of two arrays.

-- params: {"n": 7, "name": "x"}
select count(*), :n::text || :name::text as t, -:n::int as m from orders where customer_id = :n::bigint;

select u.*, o.id from orders o, unnest(o.nums, array[1, 2]) u order by 3, 1, 2;

select u.a, u.b, o.id from orders o, unnest(o.nums, array['x', 'y']) u(a, b) order by 3, 1, 2;

-- A CTE of a reference table's name is not the table that is named with its schema, nor the one that a view reads.
-- rung: pushdown
with country as (select 'de'::text as code, 'z'::text as name) select count(*), min(c.name), max(c.name) from orders o join shop.country c on c.code = o.code;

with country as (select 'de'::text as code, 'z'::text as name) select count(*), min(iso), max(value) from large_by_rate;

with country as (select 'de'::text as code, 'z'::text as name) select count(*), min(c.name) from shop.country c join orders o on o.code = c.code join items i on i.qty = o.quantity;

with country as (select 'de'::text as code, 'z'::text as name) select count(*), min(c.name) from country c join orders o on o.code = c.code join shop.country d on d.code = o.code;
