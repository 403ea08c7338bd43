-- FULL JOIN, which is each partition's own where it joins the keys.

-- rung: pushdown
select o.id, i.line from orders o full join items i on i.customer_id = o.customer_id and i.order_id = o.id order by 1, 2, i.customer_id, i.order_id;

select o.id, i.line from orders o full join items i on i.customer_id = o.customer_id and i.order_id = o.id and o.customer_id in (1, 2, 7) order by 1, 2, i.customer_id, i.order_id;

select o.id, i.line from orders o full join items i on i.customer_id = o.customer_id and i.order_id = o.id where not (o.customer_id in (1, 2, 3)) order by 1, 2, i.customer_id, i.order_id;

select o.customer_id, i.line from items i full join orders o on i.customer_id = o.customer_id and i.order_id = o.id where (o.customer_id in (1, 2, 3)) is not true order by 1, 2;

select o.id, s.id from orders o full join short s on s.customer_id = o.customer_id where (s.customer_id = any (array[1, 2, 3])) is null or o.id is null order by 1, 2;

select o.id, i.line from orders o full join items i on i.order_id = o.id where i.customer_id = o.customer_id order by 1, 2, i.customer_id;

select o.id, i.line from orders o full join items i on i.order_id = o.id and i.line = o.small where i.customer_id = o.customer_id or o.id is null order by 1, 2, i.customer_id, i.order_id;

select count(*), sum(o.total), count(i.line), max(i.price) from orders o full join items i on i.customer_id = o.customer_id and i.order_id = o.id;

select o.customer_id, count(*) from orders o full join customers c on c.customer_id = o.customer_id group by o.customer_id order by 1;

select coalesce(o.customer_id, c.customer_id) as k, count(*) from orders o full join customers c on c.customer_id = o.customer_id group by 1 order by 1;

select customer_id, count(*) from orders full join customers using (customer_id) group by customer_id order by 1;

select a.v, b.v, c.v from tiny a full join short b on a.customer_id = b.customer_id full join lone c on c.customer_id = b.customer_id order by 1, 2, 3;

select a.v, b.v, c.v from tiny a full join short b on a.customer_id = b.customer_id full join lone c on c.customer_id = coalesce(b.customer_id, a.customer_id) order by 1, 2, 3;

select a.v, b.v, c.v from (tiny a left join lone c on c.customer_id = a.customer_id) full join short b on c.customer_id = b.customer_id order by 1, 2, 3;

select a.v, b.v, c.v from (tiny a left join lone c on c.customer_id = a.customer_id) full join short b on a.customer_id = b.customer_id order by 1, 2, 3;

select a.v, b.v, k.name from tiny a full join short b on a.customer_id = b.customer_id left join country k on k.customer_id = b.id order by 1, 2, 3;

select a.v, b.v, exists (select from orders o where o.customer_id = a.customer_id), (select count(*) from items i where i.customer_id = b.customer_id) from tiny a full join short b on a.customer_id = b.customer_id order by 1, 2, 4;

select x.k, y.k from (select customer_id k, count(*) n from orders group by 1) x full join (select customer_id k, max(line) m from items group by 1) y on x.k = y.k and n > 3 order by 1, 2;

select x.*, y.* from (select customer_id from tiny union all select customer_id from lone) x full join short y on y.customer_id = x.customer_id order by 1, 2, 3, 4;

select a.v, b.v from tiny a full join short b on a.customer_id = b.customer_id and false order by 1, 2;

select a.v, b.v from tiny a full join short b on a.customer_id = b.customer_id where a.customer_id = 7 order by 1, 2;

select a.v, b.v from tiny a full join short b on a.customer_id = b.customer_id where a.customer_id = 7 and b.customer_id = 7 order by 1, 2;

select a.v, b.v from tiny a full join short b on a.customer_id = b.customer_id where a.customer_id = 7 or b.customer_id = 3 order by 1, 2;

select a.v, b.v from tiny a full join short b using (customer_id) order by 1, 2;

select distinct a.customer_id, b.customer_id from tiny a full join short b on a.customer_id = b.customer_id order by 1, 2;

select a.v, row_number() over (partition by a.customer_id order by a.v, b.v, b.id) from tiny a full join short b on a.customer_id = b.customer_id order by 1, 2;

select l.value, b.closed from ledger l full join balances b on b.region = l.region and b.account = l.account order by 1, 2;

select l.value, b.closed from ledger l full join balances b on b.region = l.region order by 1, 2;

select p.age, l.n, c.n from people p full join logins l on l.login = p.login full join cpeople c on c.login = p.login order by 1, 2, 3;

select o.id, x.m from orders o full join lateral (select 1 as m) x on true order by 1 limit 3;

select c.customer_id, x.id from customers c left join lateral (select o.id from orders o full join items i on i.customer_id = o.customer_id and i.order_id = o.id where o.customer_id = c.customer_id) x on true order by 1, 2;

select id from orders o where customer_id in (select i.customer_id from items i full join short s on s.customer_id = i.customer_id) order by 1;

select t.v, (select max(s.id) from short s full join lone l on l.customer_id = s.customer_id where s.customer_id = t.customer_id) from tiny t order by 1, 2;
