-- Partition keys: what pins a statement, and what must not.

-- rung: single
select id, total from orders where customer_id = 7 order by id;

-- rung: single
select count(*) from orders where 7 = customer_id;

-- rung: pushdown
-- A numeric literal is not an integer key.
select count(*) from orders where customer_id = 42.0;

-- rung: pushdown
select count(*) from orders where customer_id = 7.0;

-- rung: single
select count(*) from orders where customer_id = '7';

-- rung: single
select count(*) from orders where customer_id = ' +7 ';

-- rung: single
select count(*) from orders where customer_id = 7::smallint;

-- rung: pushdown
select count(*) from orders where customer_id = 7::numeric;

-- rung: pushdown
select count(*) from orders where customer_id = 7.4::int;

-- rung: pushdown
select count(*) from orders where customer_id = cast(6.5 as bigint);

-- rung: pushdown
select count(*) from orders where customer_id = 3 + 4;

-- rung: pushdown
select count(*) from orders where customer_id = '0x7';

-- rung: pushdown
select count(*) from orders where customer_id = '1_0';

select count(*) from orders where customer_id = 0x7;

select count(*) from orders where customer_id = 9223372036854775807;

select count(*) from orders where customer_id = 9223372036854775808;

select count(*) from orders where customer_id = -9223372036854775808;

-- params: {"x": 7}
-- rung: single
select count(*) from orders where customer_id = :x;

-- params: {"x": "7"}
select count(*) from orders where customer_id = :x;

-- params: {"x": "seven"}
select count(*) from orders where customer_id = :x;

-- params: {"x": 7.0}
-- rung: pushdown
select count(*) from orders where customer_id = :x;

-- params: {"x": {"$decimal": "7"}}
select count(*) from orders where customer_id = :x;

-- params: {"x": {"$decimal": "7.4"}}
-- rung: pushdown
select count(*) from orders where customer_id = cast(:x as bigint);

-- params: {"x": true}
select count(*) from orders where customer_id = :x;

-- params: {"x": null}
select count(*) from orders where customer_id = :x;

-- params: {"x": 99999999999999999999}
select count(*) from orders where customer_id = :x;

-- rung: pushdown
select count(*) from orders where customer_id = 7 or id = 3;

-- rung: some: pushdown
select count(*) from orders where customer_id = 7 or customer_id = 3;

-- rung: some: pushdown
select count(*) from orders where (customer_id = 7 and total > 10) or (customer_id = 3 and total is null);

-- rung: pushdown
select count(*) from orders where not (customer_id = 7);

-- rung: pushdown
select count(*) from orders where not (customer_id <> 7);

-- rung: pushdown
select count(*) from orders where (customer_id = 7) is not true;

-- rung: pushdown
select count(*) from orders where (customer_id = 7) is true;

-- rung: pushdown
select count(*) from orders where coalesce(customer_id = 7, true);

-- rung: pushdown
select count(*) from orders where case when total > 0 then customer_id = 7 else true end;

-- rung: pushdown
select count(*) from orders having max(customer_id) = 7;

-- rung: pushdown
select customer_id, count(*) from orders group by customer_id having customer_id = 7;

-- A column of the same name in another table.
select c.customer_id, o.id from country c join orders o on true where c.customer_id = 7 order by o.id, c.code;

select c.code, o.id from currency c, orders o where c.id = 3 and o.id = c.id;

select p.customer_id, p.login from people p where p.customer_id = 7 order by 2;

select v.customer_id, count(*) from visits v where v.customer_id = 7 group by 1;

-- rung: stages
select id from orders where id in (select order_id from items where customer_id = 7) order by id;

-- rung: stages
select id from orders o where exists (select from items i where i.customer_id = 7 and i.order_id = o.id) order by id;

select count(*) from orders o where o.customer_id = (select 7);

select count(*) from orders o where o.customer_id in (select 7 union select 3);

select id, (select max(customer_id) from orders where customer_id = 3) from orders order by id limit 3;

-- rung: single
select count(*) from orders where customer_id in (1, null);

-- rung: pushdown
select count(*) from orders where customer_id not in (1, null);

-- rung: pushdown
select count(*) from orders where customer_id not in (1, 2);

-- rung: single
select count(*) from orders where customer_id in (null, null);

-- rung: single
select max(id), count(*) from orders where customer_id = 7 and customer_id = 3;

-- rung: single
select o.k, count(*) from (select customer_id as k from orders) o where o.k = 7 group by 1;

-- rung: single
with o as (select * from orders) select count(*) from o join items i on i.customer_id = o.customer_id where o.customer_id = 7;

-- rung: single
select count(*) from country c left join (select customer_id, code from orders) o on o.code = c.code and o.customer_id = 7;

select count(*) from (select customer_id from orders order by id limit 20) o where o.customer_id = 7;

select * from (select customer_id, row_number() over (order by id) as n from orders) o where o.customer_id = 7 order by n;

-- rung: some: pushdown
select count(*) from orders where customer_id in (1, 2, 3, 7) and customer_id in (3, 7, 8);

select count(*) from orders where customer_id in (7, 3.0);

-- rung: some: pushdown
select count(*) from orders where customer_id in (7, 3, 7, 12);

select count(*) from orders where customer_id in (7, total);

select count(*) from orders where 7 in (customer_id, id);

-- rung: some: pushdown
select count(*) from orders where customer_id = any (array[1, 7]);

select count(*) from orders where customer_id = any (array[1, null]);

select count(*) from orders where customer_id = any ('{1,7}');

select count(*) from orders where customer_id = any ('{1,7}'::bigint[]);

-- rung: some: pushdown
select count(*) from orders where customer_id = any (array[1, 7]::smallint[]);

select count(*) from orders where customer_id = any (array[1.4, 7]::bigint[]);

select count(*) from orders where customer_id = any (nums);

select count(*) from orders where customer_id = all (array[7, 7]);

select count(*) from orders where customer_id <> any (array[7, 3]);

select count(*) from orders where customer_id <> all (array[7, 3]);

-- params: {"x": [1, 7]}
-- rung: some: pushdown
select count(*) from orders where customer_id = any (:x);

-- params: {"x": []}
select count(*) from orders where customer_id = any (:x);

-- params: {"x": [null]}
select count(*) from orders where customer_id = any (:x);

-- params: {"x": [7, null]}
select count(*) from orders where customer_id = any (:x);

-- params: {"x": ["7"]}
select count(*) from orders where customer_id = any (:x);

-- params: {"x": [7.0, 3.0]}
select count(*) from orders where customer_id = any (:x);

-- params: {"x": {"$tuple": [1, 7]}}
-- rung: some: pushdown
select count(*) from orders where customer_id in :x;

-- params: {"x": {"$tuple": [7]}}
-- rung: single
select count(*) from orders where customer_id in :x;

-- params: {"x": {"$tuple": [7, null]}}
select count(*) from orders where customer_id in :x;

-- params: {"x": {"$tuple": [7, null]}}
select count(*) from orders where customer_id not in :x;

-- params: {"x": {"$tuple": ["7", "3"]}}
select count(*) from orders where customer_id in :x;

-- params: {"x": {"$tuple": []}}
select count(*) from orders where customer_id in :x;

-- params: {"x": {"$tuple": [1, 7]}, "y": 3}
select count(*) from orders where customer_id in :x and id > :y;

-- params: {"a": 7, "b": 3}
-- rung: some: pushdown
select count(*) from orders where customer_id in (:a, :b);

select count(*) from orders where customer_id = 7 and customer_id = 3;

-- params: {"x": {"$tuple": [{"$tuple": [7, 1]}, {"$tuple": [7, 3]}]}}
select count(*) from orders where (customer_id, id) in :x;

-- params: {"x": {"$tuple": [7, 3]}}
select count(*), max(id) from orders where (customer_id, id) = :x group by code;

select count(*) from orders where customer_id between 7 and 7;

select count(*) from orders where customer_id is not distinct from 7;

select count(*) from orders where (customer_id, id) = (7, 3);

select count(*) from orders where (customer_id, id) in ((7, 3), (7, 5));

select count(*) from orders where customer_id + 0 = 7;

select count(*) from orders where customer_id::text = '7';

select count(*) from orders where customer_id operator(pg_catalog.=) 7;

-- Keys of other types.
-- rung: single
select visit_id, page from visits where visit_id = '9E3779B9-7F4A-7C15-F39C-C0605CEDC835';

select visit_id, page from visits where visit_id = '{9E3779B97F4A7C15F39CC0605CEDC835}';

select visit_id, page from visits where visit_id = '9e3779b9-7f4a-7c15-f39c-c0605cedc835'::uuid;

select visit_id, page from visits where visit_id = 'not a uuid';

-- params: {"x": {"$uuid": "9e3779b9-7f4a-7c15-f39c-c0605cedc835"}}
-- rung: single
select visit_id, page from visits where visit_id = :x;

-- params: {"x": [{"$uuid": "9e3779b9-7f4a-7c15-f39c-c0605cedc835"}]}
select visit_id, page from visits where visit_id = any (:x);

-- rung: single
select login, age from people where login = 'user1';

select login, age from people where login = 'user1   ';

select login, age from people where login = 'user1   '::char(8);

select login, age from people where login = 'user1x'::varchar(5);

select login, age from people where login = 'user1'::name;

select login, age from people where login in ('', 'Zoë', '42') order by login;

select login, age from people where login = 42;

select login, n from logins where login = 'user3   '::bpchar order by n;

-- rung: single
select login, n from logins where login = U&'user\0033' order by n;

select login, age from people where login = E'user\x31';

select login, age from people where login = $$user1$$;

select login, age from people where login like 'user1';

select login, age from people where login = 'user1' collate "C";

-- rung: single
select day, hits from daily where day = '2024-01-31' order by hits;

select day, hits from daily where day = date '2024-01-31' order by hits;

select day, hits from daily where day = timestamp '2024-01-31 00:00' order by hits;

select day, hits from daily where day = '2024-1-31' order by hits;

select day, hits from daily where day = 'Jan 31 2024' order by hits;

select day, hits from daily where day = '2024-02-30' order by hits;

select day, hits from daily where day = 'infinity' order by hits;

-- params: {"x": {"$date": "2024-02-01"}}
-- rung: single
select day, hits from daily where day = :x order by hits;

-- params: {"x": {"$datetime": "2024-02-01T00:00:00"}}
select day, hits from daily where day = :x order by hits;

select count(*) from daily where day = 'today';

select count(*) from daily where day < current_date;

select k, v from blobs where k = '\x0100ff';

select k, v from blobs where k = '\x' order by v;

-- params: {"x": {"$bytes": "0300ff"}}
-- rung: single
select k, v from blobs where k = :x;

-- Composite keys.
-- rung: single
select entry, value from ledger where region = 'north' and account = 1 order by entry;

select entry, value from ledger where region = 'north' and account in (1, 2) order by account, entry;

select entry, value from ledger where (region, account) = ('north', 1) order by entry;

select region, entry, value from ledger where account = 1 order by region, entry;

select region, count(*) from ledger where region = '' and account = -1 group by 1;

-- params: {"r": "south", "a": 2}
-- rung: single
select entry, value from ledger where region = :r and account = :a order by entry;

-- Keys of different integer types hash alike.
-- rung: single
select v from short where customer_id = -3 order by id;

-- rung: single
select v from tiny where customer_id = -5;

select v from tiny where customer_id = 100000;

-- rung: single
select s.id, t.v from short s join tiny t on t.customer_id = s.customer_id where s.customer_id = 1 order by 1, 2;

-- Transitive pins.
-- rung: single
select o.id, i.line from orders o join items i on i.customer_id = o.customer_id and i.order_id = o.id where i.customer_id = 3 order by 1, 2;

-- rung: single
select o.id, i.line, c.name from orders o, items i, customers c
where o.customer_id = i.customer_id and i.customer_id = c.customer_id and c.customer_id = 3 and i.order_id = o.id order by 1, 2;

-- rung: single
select count(*) from country r join orders o on r.customer_id = o.customer_id where r.customer_id = 7;

select count(*) from orders a join orders b on a.customer_id = b.id where b.id = 7;

select count(*) from orders a join orders b on a.customer_id = b.customer_id::numeric where a.customer_id = 7;

-- A key pinned in ON of an outer join pins the supplied side only.
select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id and c.customer_id = 7 order by 1, 2;

select c.customer_id, o.id from customers c left join orders o on o.customer_id = 7 order by 1, 2;

select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id and o.customer_id = 7 order by 1, 2;

select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id where o.customer_id = 7 order by 1, 2;

select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id where c.customer_id = 39 order by 1, 2;

select c.customer_id, n.v from customers c full join nothing n on n.customer_id = c.customer_id and c.customer_id = 7 order by 1;

select s.id, t.v from short s full join tiny t on s.customer_id = t.customer_id and t.customer_id = 1 order by 1, 2;

select s.id, t.v from short s full join tiny t using (customer_id) where customer_id = 1 order by 1, 2;

-- rung: single
select count(*) from items i right join orders o on o.customer_id = i.customer_id and o.id = i.order_id where o.customer_id = 7;

-- rung: single
select r.code, o.id from country r left join orders o on o.customer_id = 3 order by 1, 2;

-- rung: single
select o.id, (select count(*) from items i where i.customer_id = o.customer_id and i.order_id = o.id) from orders o where o.customer_id = 3 order by 1;

-- rung: single
select o.id from orders o where o.customer_id = 3 and not exists (select from items i where i.customer_id = o.customer_id and i.order_id = o.id) order by 1;

select o.id from orders o where o.customer_id = 3 or exists (select from items i where i.customer_id = o.customer_id and i.order_id = o.id and i.line = 3) order by 1;

-- rung: single
select a, b from orders o(a, b) where b = 7 order by a limit 5;

select count(*) from orders o(customer_id, a) where customer_id = 7;

select count(*) from nothing where customer_id = 7;

-- rung: single
select v from lone where customer_id = 3 order by v;

-- Lists of keys: each partition is sent its own part.
-- rung: some: pushdown
select count(*), min(id) from orders where customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);

select count(*), min(id) from orders where customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, null);

select count(*), min(id) from orders where not (customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)) or total > 50;

select count(*), min(id) from orders where not (customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, null)) or total > 50;

select customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) as found, count(*) from orders group by 1 order by 1;

select id, customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, '10') is null as found from orders order by 1;

select customer_id, count(*) from orders group by customer_id having customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) order by 1;

select c.customer_id, o.id from customers c left join orders o on o.customer_id = c.customer_id and o.customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) order by 1, 2;

select c.customer_id from customers c where exists (select from orders o where o.customer_id = c.customer_id and o.customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) order by 1;

select c.name, o.id from country c join orders o on o.code = c.code and o.customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) order by 1, 2;

select v.page, o.id from visits v join orders o on o.customer_id = v.customer_id where o.customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) order by 1, 2;

select login, n from logins where login in ('user0', 'user1', 'user2', 'user3', 'user4', 'user5', 'Zoë', '', 'nobody', 'it''s', E'\\x') order by 1, 2;

select count(*) from short where customer_id in (1, 2, 3, 4, 5, 6, 7, 8, 9223372036854775807, -3);

select count(*) from daily where day in ('2024-01-31', '2024-02-01', '2024-02-02', '2024-2-3', '2024-02-04', '2024-02-05', '2024-02-06', '2024-02-07', '2024-02-08', '2024-02-09');

-- params: {"ids": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, null]}
select count(*), min(id) from orders where customer_id = any (:ids);

-- params: {"ids": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}
select count(*), min(id) from orders where not (customer_id = any (:ids)) or total > 50;

-- params: {"ids": {"$tuple": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}}
select count(*), min(o.id) from orders o join customers c on c.customer_id = o.customer_id where o.customer_id in :ids and c.customer_id in :ids;
