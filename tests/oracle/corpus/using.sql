-- Chains of USING: the column that a join has merged stands for its tables in the next one.

-- rung: pushdown
select customer_id, count(*), sum(o.total) from orders o join items using (customer_id) join customers using (customer_id) group by customer_id order by 1;

-- rung: single
select customer_id, o.id, i.line, c.name from customers c left join orders o using (customer_id) left join items i using (customer_id) where customer_id = 3 order by 1, 2, 3, i.order_id;

-- rung: pushdown
select customer_id, o.id, i.line from orders o right join customers c using (customer_id) left join items i using (customer_id) order by 1, 2, 3, i.order_id limit 50;

-- rung: pushdown
select customer_id, o.id from customers c join orders o using (customer_id) right join lone l using (customer_id) order by 1, 2;

select customer_id, count(*) from tiny join short using (customer_id) join lone using (customer_id) group by customer_id order by 1;

select customer_id, count(*) from tiny left join short using (customer_id) left join lone using (customer_id) group by customer_id order by 1;

select customer_id, count(*) from tiny right join short using (customer_id) right join lone using (customer_id) group by customer_id order by 1;

select customer_id, count(*) from lone full join short using (customer_id) left join tiny using (customer_id) group by customer_id order by 1;

select customer_id, count(*) from lone left join short using (customer_id) full join tiny using (customer_id) group by customer_id order by 1;

select lone.v, short.v, tiny.v from lone left join short using (customer_id) full join tiny using (customer_id) order by 1, 2, 3;

select lone.v, short.v, tiny.v from lone full join short using (customer_id) full join tiny using (customer_id) order by 1, 2, 3;

select a.v, b.v from lone a join (lone b join tiny using (customer_id)) using (customer_id) order by 1, 2;

select a.v, b.v, d.id from short a left join (lone b join tiny using (customer_id) join orders d on d.small = customer_id) using (customer_id) order by 1, 2, 3;

select a.v, b.v from lone a left join (lone b right join tiny using (customer_id)) using (customer_id) where customer_id = 3 order by 1, 2;

select a.v, b.v from (lone a join tiny t1 on a.customer_id = 3) right join short b using (customer_id) order by 1, 2;

select a.v from (lone a join tiny t1 using (customer_id)) cross join (short b join lone c using (customer_id)) order by 1;

select customer_id from (lone a join tiny t1 using (customer_id)) cross join (short b join lone c using (customer_id)) order by 1;

select customer_id, login from visits join people using (customer_id, login) join logins using (login) order by 1, 2;

select login, n, age from people join logins using (login) left join people b using (login) order by 1, 2, 3;

select region, account, count(*) from ledger join balances using (region, account) join ledger l2 using (region, account) group by region, account order by 1, 2;

select region, account, l2.entry from ledger left join balances using (region, account) join ledger l2 using (region, account) where region = 'north' and account = 1 order by 3, ledger.entry;

select customer_id, x.n from customers join (select customer_id, count(*) n from orders group by 1) x using (customer_id) join lone using (customer_id) order by 1, 2;

select customer_id from customers join orders using (customer_id) join items using (customer_id) where customer_id in (3, 7) group by customer_id having count(*) > 1 order by 1;

select code, count(*) from customers join orders using (customer_id, code) join country using (code) group by code order by 1;

select code, name, customers.customer_id from country left join customers using (code, name) order by 1, 2, 3;

select c.code, o.id from country c join customers using (code) join orders o using (code, customer_id) order by 2;

select customer_id, id from orders join lateral (select customer_id, line from items where items.customer_id = orders.customer_id) i using (customer_id) join customers using (customer_id) order by 1, 2, line limit 30;

select customer_id, sum(quantity) over (partition by customer_id order by id, line) from orders join items using (customer_id) join tiny using (customer_id) order by 1, 2 limit 20;

select distinct customer_id from orders left join items using (customer_id) left join short using (customer_id) order by 1;

select (select count(*) from items where items.customer_id = customer_id) from tiny join short using (customer_id) join lone using (customer_id) order by 1;

select customer_id from tiny join short using (customer_id) where exists (select from orders join items using (customer_id) join customers using (customer_id) where orders.customer_id = tiny.customer_id) order by 1;

-- Stars of joins by USING, and set operations, everywhere.
-- rung: pushdown
select * from orders o join items i using (customer_id) order by o.id, line limit 20;

select * from tiny join lone using (customer_id) order by 1, 2, 3;

select * from tiny left join lone using (customer_id) order by 1, 2, 3;

select * from tiny right join lone using (customer_id) order by 1, 2, 3;

select * from tiny full join lone using (customer_id) order by 1, 2, 3;

select * from tiny natural join lone natural join short order by 1, 2, 3;

select * from short s join tiny t using (customer_id) join lone l using (customer_id) order by 1, 2, 3, 4;

select * from short s join (tiny t join lone l using (customer_id, v)) using (customer_id) order by 1, 2, 3, 4;

select * from (tiny t join lone l using (v)) join short s on s.customer_id = t.customer_id order by 1, 2, 3, 4;

-- rung: pushdown
select t.*, s.* from short s join tiny t using (customer_id) order by 1, 2, 3, 4, 5;

select *, s.id + 1 as more from short s join tiny t using (customer_id) order by id, t.v;

select distinct * from short s join tiny t using (customer_id) order by 1, 2, 3, 4;

select * from short s join tiny t using (customer_id), country c where c.code = 'de' order by 1, 2, 3, 4;

-- rung: pushdown
select * from country c join customers k using (code) order by k.customer_id;

select * from country c left join (select code, count(*) from orders group by code) x using (code) order by 1;

select x.* from (select * from short join tiny using (customer_id)) x order by 1, 2, 3;

select x.customer_id, count(*) from (select * from short join tiny using (customer_id)) x join orders o on o.customer_id = x.customer_id group by 1 order by 1;

-- rung: pushdown
select count(*) from (select * from items join orders using (customer_id) where line = 1) x join customers using (customer_id);

-- rung: pushdown
select * from items natural join (select customer_id, id as order_id, code from orders) x order by 1, 2, 3;

select * from ledger join balances using (region, account) order by region, account, entry;

select * from people join logins using (login) order by 1, 2, 3, 4, 5, 6, 7;

select * from people tablesample bernoulli (100) join logins using (login) order by login, n;

-- rung: pushdown
select * from orders o cross join lateral (select count(*) as n from items i where i.customer_id = o.customer_id) x order by o.id limit 5;

select (select count(*) from (select * from tiny join short using (customer_id)) x where x.customer_id = o.customer_id), o.id from orders o order by o.id limit 9;

with w as (select * from tiny join lone using (customer_id)) select * from w order by 1, 2, 3;

select * from (select 1 as a, 2 as b) x join (select 1 as a, 3 as c) y using (a) join lone on lone.v = a order by 1, 2, 3, 4, 5;

-- rung: pushdown
select * from lone join lone l2 using (customer_id) order by lone.v, l2.v;

select * from short as s(k, id, w) join tiny as t(k, w2) using (k) order by 1, 2, 3, 4;

-- rung: pushdown
select * from short s full join tiny t on s.customer_id = t.customer_id order by s.id, t.v, t.customer_id;

select * from visits v join people p using (login, customer_id) order by 1, 2, 3;

select row_number() over (order by id), * from short join tiny using (customer_id) order by 1;

-- rung: pushdown
select customer_id, count(*) from (select * from short union all select customer_id, v, null from tiny) u group by 1 order by 1;

-- rung: pushdown
select customer_id, max(v) from (select customer_id, v from lone union select customer_id, v from tiny) u group by 1 order by 1;

-- rung: pushdown
select sum(v) from (select customer_id, v from lone union all select customer_id, v from tiny) u;

select avg(v), variance(v) from (select v from lone except select v from tiny) u;

select u.customer_id, o.id from (select customer_id from lone intersect select customer_id from tiny) u right join orders o using (customer_id) order by 2;

-- rung: pushdown
select customer_id from lone union select customer_id from tiny union all select customer_id from short order by 1;

-- rung: pushdown
select customer_id from lone union all (select customer_id from tiny except select customer_id from short) order by 1;

(select customer_id, v from tiny order by v limit 3) union select customer_id, v from lone order by 1, 2;

select customer_id::int, v from tiny union select customer_id, v from lone order by 1, 2;

-- rung: pushdown
select customer_id, 1 from tiny union select customer_id, v from lone order by 1, 2;

-- rung: pushdown
select customer_id as a, customer_id as b from tiny intersect select customer_id, v from lone order by 1;

select v, customer_id from tiny except select customer_id, v from lone order by 1, 2;

-- rung: pushdown
select login from people intersect select login from logins order by 1;

-- rung: pushdown
select login from people except select login from cpeople order by 1;

select login from people union select login collate "C" from cpeople order by 1;

-- rung: pushdown
select region, account from ledger except select region, account from balances order by 1, 2;

-- rung: pushdown
select region, account from ledger intersect select region, account from balances order by 1, 2;

-- rung: pushdown
select account, region from ledger intersect select account, region from balances order by 1, 2;

select exists (select customer_id from orders except select customer_id from items);

-- rung: pushdown
select count(*) from customers c where exists (select customer_id from orders o where o.customer_id = c.customer_id except select customer_id from items i where i.customer_id = c.customer_id);

-- rung: pushdown
select customer_id from customers where customer_id in (select customer_id from orders except select customer_id from items) order by 1;

-- rung: pushdown
select customer_id from customers where customer_id not in (select customer_id from orders intersect select customer_id from items) order by 1;

select day from daily union select placed from orders order by 1 nulls first limit 7;

-- rung: some: pushdown
select customer_id, id from orders where customer_id in (1, 2, 3) except select customer_id, order_id from items where customer_id = 2 order by 1, 2;

-- rung: single
select customer_id from orders where customer_id = 7 except select customer_id from items where false order by 1;

-- rung: single
select customer_id from orders where false union select customer_id from items where customer_id = 7;

-- rung: some: pushdown
select customer_id from orders where customer_id = 3 intersect select customer_id from items where customer_id = 7;
