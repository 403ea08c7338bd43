-- Views: the statement is answered as PostgreSQL's rewriter would have it, and pinned by what is asked of the view.

-- rung: single
select * from large where customer_id = 7 order by id;

-- rung: single
-- params: {"key": 7}
select id, total from large where customer_id = :key and total < 90 order by id;

-- rung: some: pushdown
select id, total from large where customer_id in (1, 2, 7) order by id;

select * from large order by id;

select count(*), sum(total), max(placed) from large;

select l.id, l.total from large l where l.code = 'de' order by 1;

select l.a, l.b from large as l (a, b) order by 1;

select shop.large.id from shop.large where shop.large.total > 80 order by 1;

-- rung: single
select * from seven order by id;

-- rung: single
select * from lines where customer = 7 order by number, line;

select customer, sum(value) from lines group by customer order by 1;

select product, count(*) from lines where value is not null group by product order by 1, 2;

select * from by_code order by code nulls first;

select max(n), sum(total) from by_code;

select b.code, b.n, k.name from by_code b left join country k on k.code = b.code order by 1 nulls last;

-- rung: single
select * from by_customer where customer_id = 7;

select count(*), max(top) from by_customer;

select c.customer_id, c.name, b.n from customers c left join by_customer b on b.customer_id = c.customer_id order by 1;

select * from kinds order by 1 nulls first, 2 nulls first;

select count(*) from kinds;

select * from latest order by placed desc nulls last, id;

-- The LIMIT of the view comes first.
select count(*) from latest where customer_id = 7;

select max(id), min(id), count(*) from latest;

select * from latest order by id limit 3;

select * from ranked where customer_id = 7 and place < 4 order by place;

select count(*) from ranked where place = 1;

-- Not single: the numbers are those over all rows.
select id, place from ranked_over_all where customer_id = 7 order by place limit 5;

select kind, count(*), count(name) from everybody group by kind order by 1;

select * from everybody where customer_id = 7 order by kind, name nulls last;

select word from words order by word collate "C" nulls first;

select count(*) from words;

-- rung: reference
select * from rates order by code, iso nulls last;

select o.id, r.name from orders o join rates r on r.code = o.code order by 1, 2;

select * from large_by_rate order by id, iso;

-- rung: single
select * from large_by_rate where customer_id = 7 order by id, iso;

select * from best order by value desc, id;

select count(*) from best where customer_id <> 7;

-- A CTE of the name of a view's table does not get in between.
with orders as (select 1 as customer_id, 'x' as code) select count(*), (select count(*) from orders) from large;

with recursive orders (m) as (select 1 union all select m + 1 from orders where m < 3) select * from by_code, orders order by code nulls last, m;

-- A CTE of the name of a view is meant, unless the keyspace is named.
with large as (select 1 as one) select * from large;

with large as (select 1 as one) select one, count(*) from large, shop.large l group by one;

with large as (select * from large where total > 90) select count(*) from large;

with recursive large as (select 1 as n union all select n + 1 from large where n < 4) select sum(n) from large;

select (with large as (select 5 as five) select five from large), count(*) from large;

with a as (select id from large), large as (select id from a where id < 50) select count(*) from large;

-- The view's own CTE has the name of a table.
select * from shadowed order by customer_id;

with customers as (select 1 as customer_id) select count(*) from shadowed join customers using (customer_id);

select * from "Odd View" order by 1, 2, 3;

select "100%", "x:y" from shop."Odd View" v where v."Customer Id" = 3 order by 2;

-- params: {"word": "v:3"}
select "a""b" from "Odd View" where "x:y" = :word or "x:y" like 'v%1' order by 1;

select country, count(*) from named group by country order by 1 nulls first;

-- rung: single
select * from named where customer_id = 3;

-- rung: gather
select * from shouts order by id;

select * from bosses order by depth, login;

select count(*), count(seen), count(distinct seen) from days;

select seen = now() as same from days order by id limit 1;

select n, (select count(*) from large l where l.customer_id = n) from numbers order by n;

select o.customer_id, o.id from orders o where o.id in (select id from latest) order by 1, 2;

select c.customer_id from customers c where not exists (select from large l where l.customer_id = c.customer_id) order by 1;

select c.customer_id, x.n from customers c cross join lateral (select count(*) as n from large l where l.customer_id = c.customer_id and l.total < c.credit) x order by 1;

select a.id, b.id from large a join large b on a.customer_id = b.customer_id and a.id < b.id where a.customer_id < 6 order by 1, 2;

select id from large union all select number from lines order by 1 limit 20;

select id from large except select number from lines order by 1;

select/* large */ count(*) /* from large */ from -- large
  large/**/where id > 10 -- from large
;

select to_jsonb(b) from by_code b order by b.code nulls last;

select count(l) from large l;

select (l).id from large l where (l).customer_id = 7 order by 1;

select l.* from large l, numbers where n = 1 order by l.id limit 5;

select * from large natural join (select 7::bigint as customer_id) x order by id;

select id, customer_id, n from large join by_customer using (customer_id) order by id;

table by_code;

select count(*) from only large;

-- refused: SP117
select null::large;

select l from large l order by id limit 1;

select array_agg(b order by b) from by_code b;

select n from numbers n order by n;

-- PostgreSQL fails too.
select ctid from large;

select * from large tablesample bernoulli (50);

select nothing from large;

table only large order by id;

select * from by_code * order by code;

select (table numbers order by 1 limit 1), id from seven order by id;

table by_customer union all (table by_customer order by customer_id limit 2) order by 1, 2;

select b, b is null, b = b, b.n from by_customer b order by b;

select c.customer_id, s from customers c left join seven s on s.id = c.customer_id order by 1, 2;

select k, count(*) from kinds k group by k order by k;

select distinct large_by_rate from large_by_rate where id < 40 order by 1;

select coalesce(s, null), row(s), (s).total, s::text from seven s order by (s).id;

select l from large l where l.customer_id = 7 order by l limit 5;

select max(r.n) from rates, lateral (select count(rates) as n) r;

select x from (select o from "Odd View" o) x order by x;

-- refused: SP143
select pg_typeof(s) from seven s;
