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
