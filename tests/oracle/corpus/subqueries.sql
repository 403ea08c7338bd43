-- Subqueries, CTEs, set operations, VALUES.

select id from orders where id in (select order_id from items where gift) order by id;

select id from orders where id not in (select order_id from items where order_id is not null) order by id;

select id from orders where customer_id not in (select customer_id from country) order by id;

select id from orders where customer_id not in (select customer_id from country where customer_id is not null) order by id;

select customer_id from customers c where not exists (select from orders o where o.customer_id = c.customer_id) order by 1;

select customer_id from customers c where exists (select 1 from orders o where o.customer_id = c.customer_id and o.total > 90) order by 1;

select code from country where code not in (select code from orders where code is not null) order by 1;

select code from country c where not exists (select from orders o where o.code = c.code and o.customer_id = 7) order by 1;

select (select count(*) from orders), (select max(v) from nothing), (select name from country where code = 'de');

select o.id, (select c.name from country c where c.code = o.code) from orders o order by 1;

select o.id, (select max(x.id) from orders x where x.total < o.total) from orders o order by 1 limit 20;

select (select total from orders where total > 0);

select id, total from orders where total = (select max(total) from orders) order by 1;

select id from orders where total > all (select total from orders where customer_id = 3 and total is not null) order by 1;

select id from orders where (code, status) in (select code, status from orders where id < 10) order by 1;

select id, total > (select avg(total) from orders) from orders order by 1;

select customer_id, count(*) from orders group by customer_id having count(*) > (select avg(n) from (select count(*) as n from orders group by customer_id) x) order by 1;

select x.customer_id, x.n from (select customer_id, count(*) as n from orders group by customer_id) x where x.n > 3 order by 1;

select count(*) from (select customer_id from orders group by customer_id) x;

select count(*) from (select distinct code from orders) x;

select sum(t) from (select total as t from orders order by total desc nulls last, id limit 10) x;

select id from (select id, total from orders order by total desc nulls last, id limit 5) x order by id;

select id from (select id from orders order by id offset 5) x order by id limit 2;

select * from (select id, row_number() over (order by id) as n from orders) x where n between 3 and 6 order by id;

select * from (values (7, 'seven'), (3, 'three'), (99, 'none')) v(customer_id, word) left join lone using (customer_id) order by 1, 3;

select v.word, count(o.id) from (values (7, 'seven'), (3, 'three')) v(k, word) left join orders o on o.customer_id = v.k group by 1 order by 1;

select count(*) from orders where customer_id in (values (7), (3));

-- rung: reference
values (1, 'a'), (2, 'b'), (3, null) order by 1 desc;

values ((select count(*) from orders)), (1) order by 1;

select 1, 'x', null, true, 1.50, array[1, 2];

table lone;

select array(select id from orders where customer_id = 3 order by id);

select array(select id from orders order by id desc limit 3) as a, id from lone, orders order by 2 limit 2;

select exists (select from nothing), exists (select from orders), exists (select from nothing) is null;

select case when exists (select from orders where customer_id = 39) then 'has' else 'none' end;

select coalesce((select v from nothing limit 1), -1);

-- CTEs.
with x as (select customer_id, sum(total) as t from orders group by 1) select count(*), sum(t) from x;

with x as materialized (select * from orders where customer_id = 7) select count(*) from x join items i on i.customer_id = x.customer_id and i.order_id = x.id;

with x as not materialized (select * from orders) select count(*) from x where customer_id = 7;

with a as (select 1 as k), b as (select k + 6 as k from a) select count(*) from orders join b on b.k = customer_id;

with a(x, y) as (select id, customer_id from orders) select count(*) from a where y = 7;

with unused as (select * from nothing) select count(*) from orders;

with a as (select id from orders where customer_id = 7) select count(*) from a union all select count(*) from a order by 1;

-- A CTE's name hides a table's.
with orders as (select 1 as id) select count(*) from orders;

with orders as (select 1 as id) select count(*) from shop.orders;

with country as (select 'x' as code) select count(*) from shop.country;

with orders as (select * from orders where customer_id = 7) select count(*) from orders;

with orders as (select * from orders where total > 50) select count(*) from orders;

with items as (select * from orders) select count(*) from items;

with orders as (select customer_id from items), items as (select customer_id from orders) select count(*) from items;

select count(*) from orders where exists (with orders as (select 5 as q) select from orders where q = 5);

select count(*) from orders where customer_id = 7 and exists (with orders as (select 5 as q) select from orders where q = 5);

select count(*) from (with orders as (select 5 as q) select q from orders) x, orders where customer_id = 3;

with country as (select code, name from country where region is null) select o.id, c.name from orders o join country c on c.code = o.code order by 1;

with x as (with orders as (select 2 as id) select id from orders) select x.id, count(*) from x, orders group by 1;

-- Recursion.
with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select n from r order by 1;

with recursive r as (select login, boss, 1 as depth from people where login = 'user13' union all select p.login, p.boss, depth + 1 from people p join r on p.login = r.boss) select * from r order by depth;

with recursive r as (select login, 0 as depth from people where boss is null union select p.login, depth + 1 from people p, r where p.boss = r.login and depth < 6) select depth, count(*) from r group by 1 order by 1;

with recursive orders as (select 1 as n union all select n + 1 from orders where n < 3) select sum(n) from orders;

with recursive r as (select customer_id, 1 as n from lone union all select r.customer_id, n + 1 from r where n < 3) select o.id, r.n from orders o join r on r.customer_id = o.customer_id order by 1, 2;

with recursive t(login, boss) as (select login, boss from people where boss is null union all select p.login, p.boss from people p join t on p.boss = t.login) search depth first by login set o select login from t order by o limit 5;

-- Set operations.
select id from orders where customer_id = 7 union select id from orders where customer_id = 3 order by 1 limit 5;

select customer_id from orders union all select customer_id from items order by 1 limit 7;

select code from orders union select code from country order by 1;

select customer_id from customers except select customer_id from orders order by 1;

select customer_id from customers except all select customer_id from orders order by 1;

select customer_id from orders intersect select customer_id from items order by 1;

select customer_id from orders intersect all select customer_id from items order by 1;

(select id from orders order by total desc nulls last, id limit 3) union all (select id from orders order by total nulls last, id limit 3) order by 1;

select 'orders' as t, count(*) from orders union all select 'items', count(*) from items union all select 'nothing', count(*) from nothing order by 1;

select customer_id, null as x from lone union all select customer_id, v from tiny order by 1, 2;

select trim_scale(total) as t from orders union select trim_scale(amount) from orders order by 1;

select id from orders where customer_id = 7 union all select id from orders where customer_id = 7 order by 1;

select 1 union select 2 union select count(*) from orders order by 1;

select small from orders union select 5.5 order by 1;

select id, total from orders union select 1;

select 1 from orders intersect select 1 from items;

(select customer_id from orders union select 0) except select customer_id from orders order by 1;

-- Unknown tables and catalogs.
-- refused: SP106
select count(*) from information_schema.schemata where schema_name = 'shop' and exists (select from pg_catalog.pg_class);

-- refused: SP106
select relname from pg_class where relname = 'orders';

-- refused: SP106
select count(*) > 0 from pg_catalog.pg_proc;

select * from no_such_table;

select * from public.orders;

select * from app.shop.orders;

-- Subqueries that are run first.
-- rung: stages
select id from orders where total > (select avg(total) from orders) order by id;

-- rung: stages
select id from orders where total > (select avg(total) * 2 from items) and code in (select code from customers where level > 2) order by id;

-- rung: stages
select (select max(total) from items) as most, count(*) from orders;

-- rung: stages
select count(*) from orders where exists (select from items where total > 100);

-- rung: stages
select count(*) from orders where not exists (select from items where total > 1e9);

-- rung: stages
select id from orders where id not in (select order_id from items where order_id is not null) order by id;

-- A NULL among the values of NOT IN leaves no row.
-- rung: stages
select id from orders where small not in (select level from customers) order by id;

-- rung: stages
select code, count(*) from orders group by code having count(*) > (select count(*) / 10 from items) order by code;

-- rung: stages
select x.code, x.n, c.name from (select code, count(*) as n from orders group by code order by n desc, code limit 2) x join country c using (code) order by x.n;

-- rung: stages
with best as (select code, sum(total) as s from orders group by code) select * from best where s = (select max(s) from best) order by code;

-- rung: stages
select id from orders union select order_id from items order by 1;

-- rung: stages
select code from orders intersect select code from customers order by 1;

-- rung: stages
select code from customers except all select code from orders order by 1;

-- An error of a subquery that one PostgreSQL never runs is none.
select count(*) from orders where false and total > (select 1 / 0 from items limit 1);

select case when count(*) >= 0 then 1 else (select 1 / (count(*) - count(*)) from items) end from orders;

-- More than one row for a scalar.
select (select id from orders) from country;

select array(select id from orders where total is not null order by total, id) from country limit 1;

select count(*) from orders where (customer_id, id) in (select customer_id, order_id from items);

select count(*) from orders where id = any (select order_id from items where qty > 2);

select count(*) from orders where total > all (select price from items where price is not null);

-- Tables that are spread, gathered, reduced.
-- rung: stages
select count(*) from orders o join customers c on c.level = o.small where c.vip and o.active;

-- rung: stages
select o.id, c.name from orders o left join customers c on c.level = o.small and c.vip where o.total > 50 order by 1, 2;

-- rung: stages
select o.id, c.name from customers c left join orders o on c.level = o.small and o.active where c.vip order by 1, 2;

-- rung: stages
select count(*) from orders a join orders b on a.id = b.quantity join items i on i.line = b.small where a.code = 'de' and i.gift;

-- rung: stages
select count(*) from orders o join customers c on o.code = c.code and ((o.total > 50 and c.level = 1) or (o.total < 10 and c.level = 2));

-- rung: stages
select c.name, (select count(*) from orders o where o.small = c.level) from customers c order by c.customer_id;

-- rung: stages
select c.name from customers c where not exists (select * from orders o where o.small = c.level and o.active) order by c.customer_id;

-- rung: stages
select c.name, x.total from customers c cross join lateral (select o.total from orders o where o.small = c.level order by o.total desc nulls last, o.id limit 1) x order by 1, 2;

-- Beside a row of the same partition.
-- rung: pushdown
select c.name, (select count(*) from orders o where o.customer_id = c.customer_id) from customers c order by c.customer_id;

-- rung: pushdown
select c.name, x.total from customers c cross join lateral (select o.total from orders o where o.customer_id = c.customer_id order by o.total desc nulls last, o.id limit 1) x order by 1, 2;

-- rung: pushdown
select count(*) from customers where customer_id in (select customer_id from orders where total > 50);

-- rung: pushdown
select count(*) from customers c where customer_id not in (select customer_id from orders where total > 50);

-- rung: pushdown
select customer_id, count(*) over (partition by customer_id order by id) from orders order by id;

-- rung: pushdown
select x.customer_id, x.n, c.name from (select customer_id, count(*) as n from orders group by customer_id) x join customers c using (customer_id) order by 1;

-- rung: pushdown
select customer_id from orders union all select customer_id from items order by 1;

-- rung: pushdown
select code, count(*), grouping(code) from orders group by cube (code, active) having count(*) > 2 order by 1, 2, 3;

-- rung: pushdown
select id, total from orders order by total desc nulls last fetch first 5 rows with ties;

-- rung: pushdown
select percentile_cont(0.5) within group (order by total), mode() within group (order by code), stddev_samp(total) from orders;

-- rung: pushdown
select code, string_agg(note, ',' order by id), array_agg(distinct small order by small), json_agg(id order by id) from orders group by code order by code;

-- rung: pushdown
select code, rank() over (order by sum(total) desc nulls last, code) from orders group by code order by 2;

-- rung: pushdown
select distinct on (code) code, id from orders order by code, total desc nulls last, id;

-- A condition whose generated text is not faithful is not taken for checked.
(select cpeople.n as c1 from cpeople where cpeople.login = 'user3') union all (select t2.v as c1 from blobs t2 where ((true or t2.k is not null)) is null);

select count(*) from people p join orders o on o.note = p.login where (not p.age > 3) is null;

-- Recursive queries: by partitions where each row stays in the partition of the one before it.
-- rung: pushdown
with recursive r as (select customer_id, 1 as n from lone union all select r.customer_id, n + 1 from r where n < 3) select o.id, r.n from orders o join r on r.customer_id = o.customer_id order by 1, 2;

-- rung: pushdown
with recursive r as (select customer_id, order_id, line, 1 as depth from items where line = 1 union all select i.customer_id, i.order_id, i.line, depth + 1 from items i join r on i.customer_id = r.customer_id and i.order_id = r.order_id and i.line = r.line + 1) select depth, count(*) from r group by depth order by 1;

-- rung: pushdown
with recursive r as (select customer_id, order_id, line, 1 as depth from items where line = 1 union all select i.customer_id, i.order_id, i.line, depth + 1 from items i join r on i.customer_id = r.customer_id and i.order_id = r.order_id and i.line = r.line + 1) select max(depth), customer_id from r group by customer_id order by 2, 1;

-- rung: some: pushdown
with recursive r as (select customer_id, order_id, line, 1 as depth from items where line = 1 and customer_id = 7 union all select i.customer_id, i.order_id, i.line, depth + 1 from items i join r on i.customer_id = r.customer_id and i.order_id = r.order_id and i.line = r.line + 1) select * from r order by 1,2,3,4;

-- rung: pushdown
with recursive r(a, b) as (select customer_id, line from items where line = 1 union select r.a, b + 1 from r where b < 4) select a, b from r order by 1,2;

-- rung: gather
with recursive r(a, b) as (select customer_id, line from items where line = 1 union select r.a + 1, b + 1 from r where b < 4) select a, b from r order by 1,2;

-- rung: pushdown
with recursive r(a, b) as (select customer_id, line from items where line = 1 and customer_id < 10 union all select r.a + 1, b + 1 from r where b < 4) select a, b from r order by 1,2;

-- rung: stages
with recursive r(a, b) as (select customer_id, 1 from lone union all select o.customer_id, b + 1 from r join orders o on o.customer_id = r.a + 1 where b < 4) select a, b, count(*) from r group by 1,2 order by 1,2;

-- rung: pushdown
with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select r.n, count(*) from orders o join r on r.n = o.quantity group by 1 order by 1;

-- rung: gather
with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select count(*) from orders where quantity in (select n from r);

-- rung: pushdown
with recursive c(code, n) as (select code, 1 from country where code < 'e' union all select c.code, n + 1 from c join country k using (code) where n < 3) select o.code, c.n, count(*) from orders o join c on c.code = o.code group by 1, 2 order by 1, 2;

-- rung: stages
with recursive r as (select login, boss, 1 as depth from people where login = 'user13' union all select p.login, p.boss, depth + 1 from people p join r on p.login = r.boss) select * from r order by depth;

-- rung: gather
with recursive r(c, n) as (select customer_id, 1 from lone union all select c, n + 1 from r) select c from r limit 5;

-- rung: pushdown
with recursive r(c, n) as (select customer_id, 1 from lone union all select c, n + 1 from r where n < 100) select c, n from r order by n desc, c limit 5;

-- rung: pushdown
with recursive r(c, n) as (select customer_id, 1 from orders union select c, n + 1 from r where n < 3) select count(*), sum(n) from r;

-- rung: gather
with recursive r(c, n) as (select customer_id, 1 from lone union all select c, n + 1 from r where n < 10) select id from orders o where exists (select from r where r.c = o.customer_id and n = 3) order by 1;

-- rung: pushdown
with recursive r(c, n) as (select customer_id, 1 from lone union all select c, n + 1 from r where n < 10), s as (select c, max(n) as m from r group by c) select o.id, m from orders o join s on s.c = o.customer_id order by 1;

-- rung: gather
with recursive r(c, n) as (select 3, 1 union all select o.customer_id::int, n + 1 from r join orders o on o.customer_id = r.c where n < 2) select count(*) from r;

-- rung: gather
with recursive t(login, boss) as (select login, boss from people where boss is null union all select p.login, p.boss from people p join t on p.boss = t.login) search depth first by login set o select login from t order by o limit 5;

-- rung: gather
with recursive t(c, n) as (select customer_id, 1 from lone union all select t.c, n + 1 from t where n < 3) cycle c set looped using path select c, n, looped from t order by 1, 2, 3;

-- rung: pushdown
with recursive a(c, n) as (select customer_id, 1 from lone union all select c, n + 1 from a where n < 3), b(c, m) as (select c, n from a union all select c, m * 2 from b where m < 9) select c, m, count(*) from b group by c, m order by 1, 2, 3;

-- rung: pushdown
with recursive x as (select customer_id, id from orders where id < 20), r as (select customer_id, id from x union select x.customer_id, x.id from x join r on x.customer_id = r.customer_id) select count(*), sum(id) from r;

-- Set operations of rows that have the key.
-- rung: pushdown
select customer_id from orders intersect select customer_id from items order by 1;

-- rung: pushdown
select customer_id, id from orders except select customer_id, order_id from items order by 1, 2;

-- rung: pushdown
select customer_id, code from orders union select customer_id, code from customers;

-- rung: pushdown
select count(*) from (select customer_id from orders union select customer_id from items) x;

-- rung: pushdown
select count(*) from (select customer_id, id from orders except all select customer_id, order_id from items) x join customers using (customer_id);

-- rung: pushdown
select u.customer_id, count(*) from (select customer_id from orders union all select customer_id from items) u join customers c on c.customer_id = u.customer_id where c.vip group by 1 order by 1;

-- rung: pushdown
select customer_id from orders where id < 50 except select customer_id from short;

-- rung: pushdown
select customer_id from short intersect all select customer_id from tiny;

-- rung: stages
select code, customer_id from orders union select code, id from orders;

-- rung: some: pushdown
select customer_id from orders where customer_id = 7 union select customer_id from items where customer_id = 3;

-- rung: stages
select customer_id from orders except select 7 order by 1 limit 3;

-- rung: pushdown
select count(*) from orders where (id, customer_id) in (select order_id, customer_id from items where line = 2);

-- rung: pushdown
select count(*) from orders where (id, customer_id) not in (select order_id, customer_id from items where line = 2);

-- rung: stages
select count(*) from orders where (customer_id, id) in (select order_id, customer_id from items);

-- a key that an outer join has left NULL is NULL in (rows of other partitions)
-- rung: stages
select count(*) from customers c left join orders o on o.customer_id = c.customer_id and o.id < 0 where o.customer_id not in (select customer_id from tiny);

-- rung: stages
select count(*) from customers c left join orders o on o.customer_id = c.customer_id and o.id < 0 where (o.customer_id in (select customer_id from tiny)) is null;

-- rung: stages
select count(*) from orders o right join customers c on o.customer_id = c.customer_id and o.id < 0 where (7, o.customer_id) not in (select customer_id, customer_id from tiny);

-- rung: stages
select count(*) from customers c full join tiny t on t.customer_id = c.customer_id and c.vip where t.customer_id <> all (select customer_id from tiny);

-- rung: stages
select count(*) from customers c left join orders o on o.customer_id = c.customer_id and o.id < 0 where exists (select from tiny t where t.customer_id = c.customer_id or o.customer_id not in (select customer_id from tiny));

-- a literal beside aggregates is no reason to gather the rows
-- rung: stages
select 'o', count(*) from orders union all select 'i', count(*) from items union all select 'c', count(*) from customers order by 1;

-- rung: stages
select 'o' as what, code, count(*) from orders group by code union select 'c', code, count(*) from customers group by code order by 1, 2, 3;

-- rung: stages
select null as a, max(total) from orders union all select 5, min(total) from orders union all select 6, 7 order by 1;

-- rung: stages
-- params: {"low": 3}
select max(total), 'a', 1.5, min(id) from orders where id > :low union all select 1, 'b', 2, count(*) from items order by 2;

-- rung: stages
select 'a' as code, count(*) from orders group by code union all select 'b', count(*) from items order by 1, 2;

-- rung: stages
select 'a' as x, count(*) from orders group by 1 union all select 'b', count(*) from items order by 1, 2;

select 'a', v from (select sum(total) as v from orders) x union select 'b', count(*) from items group by () order by 1;
