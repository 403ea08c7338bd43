-- Joins: colocated or not, outer ones, USING, NATURAL, LATERAL, self joins.

-- rung: pushdown
select o.id, i.line, i.product from orders o join items i on o.customer_id = i.customer_id and o.id = i.order_id order by 1, 2;

-- rung: pushdown
select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id order by 1, 2;

-- rung: pushdown
select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id where i.line is null order by 1;

-- rung: pushdown
select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id and i.line > 1 order by 1, 2;

select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id and o.total > 50 order by 1, 2;

select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id where coalesce(i.line, 0) < 1 order by 1, 2;

select o.id, i.line from orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id where i.gift is not true order by 1, 2;

-- rung: pushdown
select i.line, o.id from items i right join orders o on o.customer_id = i.customer_id and o.id = i.order_id order by 2, 1;

-- Key equality under OR, or of other columns, does not colocate.
-- rung: stages
select count(*) from orders o join items i on o.customer_id = i.customer_id or o.id = i.order_id;

-- rung: stages
select count(*) from orders o join items i on o.id = i.order_id;

-- rung: stages
select count(*) from orders o join items i on o.customer_id = i.order_id;

-- rung: stages
select count(*) from orders a join orders b on a.id = b.id;

-- rung: pushdown
select count(*) from orders a join orders b on a.customer_id = b.customer_id and a.id < b.id;

-- rung: stages
select count(*) from orders a, orders b where a.id + 1 = b.id;

select a.id, b.id from orders a join orders b on b.id = a.id + 1 where a.customer_id = 7 order by 1;

-- rung: pushdown
select count(*) from orders o, items i, customers c where o.customer_id = i.customer_id and c.customer_id = i.customer_id and i.order_id = o.id;

select count(*) from orders o, items i, customers c where o.customer_id = i.customer_id and c.customer_id = i.order_id;

-- The key of the supplied side must be equal by facts of that side.
select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id left join items i on i.customer_id = o.customer_id and i.order_id = o.id order by 1, 2, i.line;

select c.customer_id, count(*) from customers c left join orders o on o.id = c.customer_id group by 1 order by 1;

select c.customer_id, o.id, i.line from customers c left join (orders o join items i on i.customer_id = o.customer_id and i.order_id = o.id) on o.customer_id = c.customer_id order by 1, 2, 3;

select c.customer_id, o.id, i.line from customers c left join (orders o left join items i on i.customer_id = o.customer_id and i.order_id = o.id and i.line = 1) on o.customer_id = c.customer_id and o.total > 90 order by 1, 2, 3;

select o.id, i.line from (orders o left join items i on o.customer_id = i.customer_id and o.id = i.order_id) join customers c on c.customer_id = i.customer_id order by 1, 2;

select o.id, i.line from (orders o left join items i on o.id = i.order_id) join customers c on c.customer_id = o.customer_id order by 1, 2;

select a.v, b.v from lone a left join nothing b on a.customer_id = b.customer_id order by 1;

select a.v, b.v from nothing a left join lone b on a.customer_id = b.customer_id;

select a.v, b.v from nothing a right join lone b on a.customer_id = b.customer_id order by 2;

select a.v, b.v from nothing a full join lone b on a.customer_id = b.customer_id order by 2;

select count(*), count(a.v), count(b.v) from nothing a full join lone b on false;

-- rung: pushdown
select s.customer_id, t.customer_id, s.id, t.v from short s full join tiny t on s.customer_id = t.customer_id order by 1, 2, 3, 4;

select coalesce(s.customer_id, t.customer_id) as k, count(*) from short s full join tiny t on s.customer_id = t.customer_id group by 1 order by 1;

select customer_id, count(*) from short full join tiny using (customer_id) group by customer_id order by 1;

select customer_id, s.customer_id, t.customer_id from short s left join tiny t using (customer_id) order by s.id, t.v;

select customer_id, s.customer_id, t.customer_id from short s right join tiny t using (customer_id) order by 1, s.id, t.v;

select sum(customer_id), avg(customer_id), max(customer_id) from orders right join short using (customer_id);

select customer_id, count(*), max(customer_id) from orders right join short using (customer_id) group by customer_id order by 1;

select login, max(login) from logins right join people using (login) group by login order by 1;

select * from short join tiny using (customer_id) order by id, v;

select * from short s join tiny t using (customer_id) order by id, t.v;

select x.*, id from short join tiny using (customer_id) as x order by id;

select count(*) from short join tiny using (customer_id) join nothing using (customer_id);

select count(*) from short join tiny using (customer_id) left join nothing using (customer_id);

select * from short natural join tiny order by id, 1, 2;

select * from short natural left join tiny order by id, 1, 2;

select customer_id * 0 as customer_id, count(*) from short natural join country group by customer_id order by 2;

select id as customer_id, customer_id as id from short natural join country order by customer_id;

select count(*) from people natural join logins;

select count(*), count(customer_id), max(hits) from people natural left join daily;

select count(*) from people natural join daily;

select count(*) from orders natural join items;

select count(*) from customers natural join country;

-- rung: pushdown
select count(*), sum(v) from tiny natural join lone;

select customer_id, count(*) from tiny natural left join lone group by customer_id order by 1;

select customer_id, v from tiny natural right join lone order by 1, 2;

select count(*), count(customer_id), min(note) from lone natural full join nothing;

-- rung: pushdown
select o.id, total, i.line from (select customer_id, id, total from orders) o natural join items i order by 1, 2, 3;

-- rung: single
select count(*) from orders o natural join items i where customer_id = 7;

-- rung: single
select total from (select customer_id, total, id as order_id from orders) o natural join items where o.customer_id = 7 order by 1;

select region, account, count(*), max(closed::int) from ledger natural left join balances group by region, account order by 1, 2;

-- rung: pushdown
select name, count(*) from country c natural join (select code, customer_id from orders) o group by name order by 1;

-- rung: pushdown
select count(*) from (short natural join tiny) natural join lone;

select count(*) from short natural join (select customer_id as k from orders) x;

select * from tiny natural join lone natural join short order by 1, 2, 3;

select count(*) from short s natural join tiny t where s.v is null or t.v > s.id;

select login, n from people natural join logins natural left join cpeople order by login, n;

select count(*) from (tiny join lone on tiny.v = lone.v) natural join short;

select count(*) from (select 1 as a, 2 as a) x natural join (select 1 as b) y;

select count(*) from (select v, v from tiny) x natural join lone;

select 1 from (select 1) a natural join (select 1) b natural join lone where v > 3 order by 1 limit 3;

-- Reference tables: rows must not be doubled.
-- rung: pushdown
select o.id, c.name from orders o join country c on c.code = o.code order by 1;

-- rung: pushdown
select c.name, count(*), sum(o.total) from orders o join country c on c.code = o.code group by c.name order by 1;

-- rung: pushdown
select o.id, c.name from orders o left join country c on c.code = o.code order by 1;

-- rung: gather
select c.code, o.id from country c left join orders o on c.code = o.code order by 1, 2;

-- rung: gather
select c.code, count(o.id) from country c left join orders o on c.code = o.code group by 1 order by 1;

-- rung: pushdown
select c.code, count(*) from country c cross join orders o group by 1 order by 1;

-- rung: gather
select c.code, o.id from orders o full join country c on c.code = o.code order by 1, 2;

-- rung: gather
select c.code, o.id from orders o right join country c on c.code = o.code order by 1, 2;

select count(*) from orders o left join (country c full join currency u on u.country = c.code) on c.code = o.code;

-- rung: reference
select c.code, u.iso from country c full join currency u on u.country = c.code order by 1, 2;

select v.note, o.id from orders o left join void v on v.customer_id = o.customer_id order by 2;

select v.note, o.id from void v left join orders o on v.customer_id = o.customer_id order by 2;

select count(*) from void v right join orders o on v.customer_id = o.customer_id;

select count(*) from orders cross join void;

-- Self joins and the same name twice.
select a.login, b.login from people a join people b on a.boss = b.login order by 1;

select a.login, b.login from people a left join people b on a.boss = b.login and b.age > 21 order by 1;

select a.id, b.id from short a, short b where a.customer_id = b.customer_id and a.id < b.id order by 1, 2;

select a.customer_id, b.customer_id, count(*) from tiny a left join tiny b on a.v = b.v group by 1, 2 order by 1, 2;

-- Keys of different types are not colocated.
select count(*) from people p join cpeople c on c.login = p.login;

select p.login, l.n from people p join logins l on l.login = p.login order by 1, 2;

-- rung: pushdown
select s.id, t.v, n.v from short s join tiny t on s.customer_id = t.customer_id left join nothing n on n.customer_id = t.customer_id order by 1, 2;

select count(*) from orders o join people p on p.customer_id = o.customer_id;

select count(*) from visits v join orders o on v.customer_id = o.customer_id;

select count(*) from daily d join people p on p.day = d.day;

-- rung: pushdown
select l.region, l.account, l.entry, b.closed from ledger l join balances b on b.region = l.region and b.account = l.account order by 1, 2, 3;

select l.region, l.account, l.entry, b.closed from ledger l left join balances b on b.region = l.region and b.account = l.account order by 1, 2, 3;

-- rung: stages
select l.region, b.account, count(*) from ledger l join balances b on b.region = l.region group by 1, 2 order by 1, 2;

select count(*) from ledger l join balances b using (region, account);

select count(*) from ledger l join balances b using (account, region);

select count(*) from ledger l join balances b on b.region = l.region and b.account = l.entry;

-- LATERAL.
select o.id, x.line from orders o cross join lateral (select line from items i where i.customer_id = o.customer_id and i.order_id = o.id order by line desc limit 1) x order by 1;

select c.customer_id, x.id from customers c left join lateral (select id from orders o where o.customer_id = c.customer_id order by total desc nulls last, id limit 2) x on true order by 1, 2;

select c.code, x.id from country c, lateral (select o.id from orders o where o.code = c.code order by o.id limit 2) x order by 1, 2;

select o.id, n.n from orders o, lateral unnest(o.nums) with ordinality as n(n, place) order by 1, place;

select o.id, n from orders o, generate_series(1, o.small) n where o.small < 4 order by 1, 2;

select o.id, n from orders o left join unnest(o.nums) n on n > 1 order by 1, 2;

select o.id, j.key, j.value from orders o, jsonb_each_text(o.attrs) j order by 1, 2;

select o.id, r.* from orders o, jsonb_to_record(o.attrs) as r(k int, s text) order by 1;

select x.* from rows from (generate_series(1, 2), generate_series(5, 7)) as x(a, b), lone l order by 1, 2, l.v;

-- Aliased joins and column aliases.
select j.y from (orders join items on orders.customer_id = items.customer_id and orders.id = items.order_id) as j(x, y) order by 1;

select j.y, j.x from (lone l join tiny t on l.v = t.v) as j(x, y) order by 1, 2;

select count(*) from (select row_to_json(j)::text as t from (short a join tiny b on a.customer_id + 0 = b.customer_id) as j) z group by t order by 1;

select o.a, o.b, o.total from orders o(a, b) order by a limit 3;

select b, sum(c) from orders o(a, b, c) group by b order by b;

select count(*) from orders o(a, b) join items i(b) using (b);

select t.id from orders t(customer_id, id) where t.id = 7 order by t.customer_id limit 4;

select "Order Line"."select", o.id from "Order Line" join orders o on o.customer_id = "Customer Id" where o.id < 40 order by 1, 2;

-- Ambiguous and missing names are errors on both sides.
select id from orders o join short s on s.customer_id = o.customer_id;

select customer_id from orders o join items i on true;

select nothing.id from orders;

select o.id from orders o join items i on i.customer_id = x.customer_id join short x on true;

select id as note, count(*) from orders o join customers c using (customer_id) group by name;

-- Tables that are reduced by reference tables, by a key of theirs and by another column.
select v.visit_id, k.name from visits v join customers c on c.customer_id = v.customer_id join country k on k.customer_id = c.customer_id where k.name = 'Brazil' order by 1;

select v.visit_id, k.name from visits v join customers c on c.customer_id = v.customer_id join country k on k.code = c.code where k.region = 'Europe' order by 1;

select v.visit_id, k.name from visits v join customers c on c.customer_id = v.customer_id left join country k on k.code = c.code and k.region = 'Europe' order by 1;

select v.visit_id, k.name from visits v join customers c on c.customer_id = v.customer_id, country k where k.code = c.code and (k.region = 'Europe' or c.vip) order by 1;

select count(*), min(u.iso) from visits v join orders o on o.id = v.customer_id join currency u on u.id = o.quantity where u.rate > 1;

select count(*), min(u.iso) from visits v join orders o on o.customer_id = v.customer_id join currency u on u.id = o.quantity join country k on k.code = u.country where k.region = 'Europe';

select count(*) from visits v join orders o on o.id = v.customer_id join currency u on u.id = o.small where u.rate > 1;

select k.name, count(*) from country k where population > (select avg(population) from country) and not exists (select from orders o where o.code = k.code and o.total > 20) group by 1 order by 1;

select v.page from visits v join customers c on c.customer_id = v.customer_id where c.code in (select code from country where population >= (select max(population) from country where region = 'Europe')) order by 1;

-- rung: pushdown
select count(*), sum(i.line) from orders o join items i on (o.id, o.customer_id) = (i.order_id, i.customer_id);

-- rung: pushdown
select count(*), count(i.line) from orders o left join items i on (i.customer_id, i.order_id, i.line) = (o.customer_id, o.id, 1);

-- rung: single
select o.id, i.line from orders o join items i on row(i.customer_id, i.order_id) = row(o.customer_id, o.id) where o.customer_id = 7 order by 1, 2;

select count(*) from orders o join items i on (o.id, o.total) = (i.order_id, (select max(total) from orders));

select count(*) from orders o left join items i on (o.id, i.line) = (i.order_id, (select max(x.line) from items x where x.order_id = o.id));

select count(*) from orders o where (o.id, true) = (5, exists (select from items i where i.order_id = o.id));

select count(*) from orders o join items i on (o.id, o.customer_id) = (i.order_id, 7) join customers c on (c.customer_id, c.code) = (i.line, o.code);
