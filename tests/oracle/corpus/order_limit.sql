-- ORDER BY, LIMIT, OFFSET, row locks.

-- rung: pushdown
select id, total from orders order by id;

select id, total from orders order by total, id;

select id, total from orders order by total desc, id;

select id, total from orders order by total nulls first, id desc;

select id, total from orders order by total desc nulls last, id limit 7;

select id from orders order by total desc nulls last, id limit 7;

select id from orders order by note, id;

select id, note from orders order by note collate "C" desc, id limit 9;

select id, cnote from orders order by cnote, id;

select id, cnote from orders order by cnote collate "POSIX", id;

select id, note from orders order by lower(note), id limit 20;

select id from orders order by length(note) desc nulls last, id limit 5;

select id from orders order by total * quantity, id limit 5;

select id, total from orders order by 2 desc nulls last, 1 limit 4;

select id as total, total as id from orders order by total limit 3;

select id as total, total as id from orders order by orders.total nulls last, 1 limit 3;

select -id as id from orders order by id limit 3;

select -id as id from orders order by id + 0 limit 3;

select id, id from orders order by id limit 3;

select id as x, total as x from orders order by x;

select id, id as id from orders order by id limit 2;

select * from orders order by id limit 2;

select * from orders order by 1 limit 2;

select o.*, o.id from orders o order by o.id limit 2;

select *, 1 as one from lone order by v;

select id from orders order by status, id limit 10;

select id from orders order by status desc nulls last, id desc limit 10;

select id, placed from orders order by placed desc nulls last, id limit 5;

select id, placed_at from orders order by placed_at, id limit 5;

select id, nums from orders order by nums, id limit 30;

select id, attrs from orders order by attrs, id limit 30;

select id, span from orders order by span, id limit 30;

select id, weight, ratio from orders order by weight, ratio desc, id;

select id, doc from orders order by doc, id limit 10;

select id, wait from orders order by wait desc, id limit 10;

select id, padded from orders order by padded, id limit 20;

select id, active from orders order by active, id limit 20;

select id, moods from orders order by moods, id limit 20;

select customer_id, spot from customers order by spot, customer_id;

select id, total from orders order by total using >, id limit 4;

select id, total from orders order by total using operator(pg_catalog.<), id limit 4;

select id from orders order by (code, note), id;

select id, (code, note) from orders order by id limit 4;

select id from orders order by case when code = 'de' then 0 else 1 end, id limit 6;

select id from orders order by code is null, code, id limit 6;

select id from orders order by customer_id = 7, id desc limit 6;

select id from orders order by 'x', id;

select id from orders order by 3;

select id from orders order by null;

select id from orders order by random() * 0, id limit 3;

select id from orders o order by (select c.name from country c where c.code = o.code), id limit 10;

select o.id, c.name from orders o left join country c using (code) order by c.name desc nulls last, o.id limit 5;

select customer_id, name from customers order by name, "Full Name", customer_id;

-- ties
select code, id from orders order by code limit 1000;

select cnote || note as x, id from orders order by id limit 3;

select cnote || code collate "POSIX" as x from orders order by x, id limit 3;

select total as c2, customer_id as c1, id as c3 from orders order by customer_id, id limit 5;

select wait as big, moods as c3, quantity as c4 from orders order by 1 desc, 2 nulls first, 3 nulls first limit 10;

select code as c2, count(*) as c1 from orders group by code order by 2, 1;

select code as c2, max(total) as c1, min(id) as c3 from orders group by code having max(total) > 0 order by count(*), c1 desc;

-- LIMIT and OFFSET.
select id from orders order by id limit 0;

select id from orders limit 0;

select id from orders order by id limit 5 offset 10;

select id from orders order by id offset 230;

select id from orders order by id offset 1000;

select id from orders order by id limit all offset 235;

select id from orders order by id limit null offset null;

select id from orders order by id offset 3 rows fetch next 2 rows only;

select id from orders order by id fetch first row only;

select id from orders limit 5;

select id from orders limit 5 offset 238;

select id from orders offset 230;

select count(*) from (select id from orders limit 5) x;

select id from orders order by id limit 2 + 3;

select id from orders order by id limit (select 3);

select id from orders order by id limit (select count(*) from lone);

select id from orders order by id limit 2.4;

select id from orders order by id limit 2.5;

select count(*) from orders limit 1;

select count(*) from orders limit 0;

select count(*) from orders offset 1;

select id from orders where customer_id in (7, 2) order by id limit 2.5 offset 2.5;

select id from orders limit -1;

select id from orders offset -1;

select id from orders order by id limit -1;

select id from orders order by id offset -1;

select code, count(*) from orders group by code order by code limit 2 offset -1;

select id from orders order by id limit 2147483647 offset 1;

select id from orders order by id limit 9223372036854775807 offset 1;

select id from orders limit 99999999999 offset 237;

select id from orders limit 99999999999999999999;

select id from orders order by id limit '3';

select id from orders limit '3' offset '2';

select id from orders limit '1e1';

-- params: {"n": 3, "m": 2}
select id from orders order by id limit :n offset :m;

-- params: {"n": 3, "m": 2}
select id from orders limit :n offset :m;

-- params: {"n": null, "m": null}
select id from orders order by id limit :n offset :m;

-- params: {"n": null, "m": null}
select id from orders limit :n offset :m;

-- params: {"n": null, "m": 238}
select id from orders order by id limit :n offset :m;

-- params: {"n": 4, "m": null}
select id from orders limit :n offset :m;

-- params: {"n": -1}
select id from orders limit :n;

-- params: {"n": -1}
select id from orders offset :n;

-- params: {"n": -1}
select id from orders order by id offset :n;

-- params: {"n": 2.5}
select id from orders limit :n;

-- params: {"n": {"$decimal": "1.5"}}
select id from orders limit :n offset 237;

-- params: {"n": true}
select id from orders offset :n;

-- params: {"n": "3"}
select id from orders limit :n;

-- params: {"n": "x"}
select id from orders limit :n;

-- params: {"n": "3", "m": "2"}
select id from orders order by id limit :n offset :m;

-- params: {"n": 9223372036854775807, "m": 1}
select id from orders order by id limit :n offset :m;

-- params: {"n": 2147483647, "m": 238}
select id from orders limit :n offset :m;

-- params: {"n": 2}
select total, id from orders order by :n limit 3;

-- params: {"n": "id"}
select id from orders order by :n, 1;

-- params: {"n": 1}
select code, count(*) from orders group by :n order by 1;

-- WITH TIES.
-- ties
select id, code from orders order by code fetch first 3 rows with ties;

select customer_id from orders order by customer_id desc fetch first 1 row with ties;

select v from nothing order by v fetch first 3 rows with ties;

-- Row locks.
-- rung: pushdown
select id from orders for update;

-- rung: some: pushdown
select id from orders where customer_id in (7, 3) for share;

-- rung: pushdown
select id from orders order by id limit 1 for update skip locked;

select o.id, o.code from orders o join items i using (customer_id) order by code desc, 1, i.order_id, i.line limit 7 offset 2 for no key update of o;

select distinct code from orders for update;

select count(*) from orders for update;

select code from orders union all select code from orders for update;

-- refused: SP104
select count(*) from (select id from orders for update) as o;

-- rung: single
select id from orders where customer_id = 7 order by id limit 2 for update;

select o.id from orders o join items i using (customer_id) where customer_id = 3 order by 1, i.order_id, i.line for update of o nowait;

select id from orders where customer_id = 7 order by id limit 2 for update of orders;

-- rung: reference
select code from country order by code for share;

select count(*) from orders for update;

-- DISTINCT ON: the first row of each group in every partition, and the first of these
-- rung: pushdown
select distinct on (customer_id) customer_id, id, total from orders order by customer_id, total desc nulls last, id limit 7;

-- rung: pushdown
select distinct on (code) code, customer_id, id from orders order by code, id desc, customer_id;

-- rung: pushdown
select distinct on (code) customer_id as code, id from orders order by 1, id desc limit 5 offset 3;

-- rung: pushdown
select distinct on (2, total > 50) id, code, total from orders order by code desc nulls last, total > 50, id, customer_id, total;

-- rung: pushdown
select distinct on (c.vip) c.vip, o.id, o.customer_id from orders o join customers c on c.customer_id = o.customer_id order by c.vip, o.id, o.customer_id;

-- rung: pushdown
select distinct on (code) code from orders;

-- rung: stages
select count(*) from (select distinct on (code) code from orders limit 2) x;

-- rung: pushdown
select distinct on (code) code, count(*) from orders group by code order by code;

-- rung: pushdown
select distinct on (code) code, row_number() over (order by id, customer_id) from orders order by code, id, customer_id;

-- rung: pushdown
select distinct on (code) code, id from orders order by code, id fetch first 3 rows with ties;

-- fails as in PostgreSQL: the leading ORDER BY is another one
select distinct on (code) code, id from orders order by id;

select distinct on (code) code, id from orders where id < 0 order by code, id limit 0;
