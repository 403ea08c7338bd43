-- Aggregates, GROUP BY, HAVING, grouping sets.

-- rung: pushdown
select count(*), count(total), sum(total), avg(total), min(total), max(total) from orders;

select count(*), count(v), sum(v), avg(v), min(v), max(v), bool_and(v > 0), every(v > 0) from nothing;

select count(*), sum(v) from nothing group by customer_id;

select count(*), sum(v) from lone;

select sum(v), avg(v) from lone where v > 100;

select count(*) from orders where false;

select sum(total) from orders having count(*) > 100000;

select count(*) from nothing having count(*) = 0;

select 1 from orders having true;

select 1 from nothing having true;

select 'x' from orders having count(*) > 1;

-- Every numeric type.
select sum(small), avg(small), sum(quantity), avg(quantity), sum(big), avg(big) from orders;

select sum(amount), avg(amount), sum(total), avg(total) from orders;

select sum(weight), avg(weight), sum(ratio), avg(ratio) from orders;

select sum(wait), avg(wait), min(wait), max(wait) from orders;

select customer_id, sum(amount), avg(amount) from orders group by 1 order by 1;

select avg(small + quantity), avg(quantity * 2), avg(big + small), sum(quantity + total), avg(total / 3) from orders;

select sum(small * 1.5), sum(ratio * 2), sum(ratio + ratio), sum(weight * quantity), sum(total * weight) from orders;

select sum(quantity / 7), sum(quantity % 7), sum(-small), sum(- (-total)), avg(-quantity) from orders;

-- Types of what is not a plain column: a sum has the type of one PostgreSQL's.
select sum(case when quantity > 2 then 1 else 0 end), avg(case when total > 5 then quantity end), sum(case when small > 1 then big when small > 0 then quantity else small end) from orders;

select sum(case when quantity > 2 then total * (1 - ratio::numeric) else 0 end), sum(case when small > 0 then weight else 0 end), avg(case when small > 0 then ratio else weight end) from orders;

select sum(coalesce(quantity, 0)), sum(greatest(small, 2)), avg(least(total, quantity)), sum(coalesce(null, total, 1)), sum(coalesce(big, quantity)) from orders;

select sum(round(total, 1)), sum(round(quantity)), avg(trunc(total)), sum(abs(small)), sum(abs(total)), sum(floor(ratio)), sum(ceil(quantity)) from orders;

select sum(length(status)), avg(char_length(status)), sum(octet_length(status)), sum(strpos(status, 'e')) from orders;

select sum(extract(year from placed_at)), avg(extract(epoch from placed_at)), sum(date_part('year', placed_at)) from orders;

select sum(v), avg(w), sum(x), sum(y) from (select quantity * 2 as v, case when small > 1 then total else 0 end as w, big as x, small + 1 as y from orders) p;

select k, sum(n), avg(s), sum(a), sum(m) from (select customer_id, customer_id % 3 as k, count(*) as n, sum(quantity) as s, avg(quantity) as a, max(small) as m from orders group by customer_id) p group by k order by k;

with p(a, b) as (select quantity, total from orders) select sum(a), avg(b), sum(a * b), sum(case when a > 1 then b else a end) from p;

select sum(1), sum(1.50), sum(2147483648), avg(1), avg(1.50), sum(1e3) from orders;

select sum(quantity::smallint), sum(quantity::numeric), sum(quantity::real), avg(quantity::float8), sum(total::int) from orders where quantity > 0;

select sum(big * big) from orders;

select sum(9223372036854775807) from lone;

select sum(9223372036854775807::bigint), avg(9223372036854775807::bigint) from orders;

select sum(small::int * 1000000) from orders;

select sum(2147483647 + quantity) from orders;

select sum(weight * 1e300 * 1e8) from orders;

select sum('NaN'::float8 * weight), sum('Infinity'::float8) from orders;

select sum('NaN'::numeric), avg('Infinity'::numeric) from lone;

select sum(value), avg(value), round(avg(value), 2), avg(value)::numeric(10,3) from ledger;

select avg(part), sum(part) from daily;

select avg(age), sum(age), min(age) from customers;

select avg(total)::text, sum(amount)::text, (sum(total) / count(*))::text from orders;

select variance(total), stddev(quantity), corr(weight, quantity), regr_count(weight, quantity) from orders;

-- min and max of everything.
select min(note), max(note), min(cnote), max(cnote), min(code), max(padded) from orders;

select min(note collate "C"), max(cnote collate "POSIX") from orders;

select min(status), max(status), min(placed), max(placed_at), min(nums), max(nums) from orders;

select customer_id, min(status), max(status) from orders group by 1 order by 1;

select min(iso), max(iso) from currency;

select max(doc::text), min(span::text) from orders;

-- since: 18
select max(spot) from customers;

select min(moods), max(moods) from orders;

select min("CamelCase"::int), max("Größe"), min("a""b"), count("100%") from "Order Line";

select bool_and(active), bool_or(active), every(active is not null), bit_and(quantity), bit_or(quantity), bit_xor(quantity) from orders;

select code, bool_or(active), bit_or(small) from orders group by code order by code;

-- FILTER, DISTINCT, ORDER BY inside.
-- rung: pushdown
select count(*) filter (where total > 50), sum(total) filter (where active), avg(total) filter (where false), max(note) filter (where id < 10) from orders;

select code, avg(total) filter (where active) from orders group by 1 order by 1;

-- rung: pushdown
select count(distinct customer_id), count(distinct code), sum(distinct quantity), avg(distinct small) from orders;

select customer_id, count(distinct code) from orders group by 1 order by 1;

select count(distinct (code, status)) from orders;

select string_agg(note, ',' order by id), array_agg(id order by id desc) from orders where id < 20;

select string_agg(distinct code, ',' order by code) from orders;

select code, string_agg(id::text, ',' order by total desc nulls last, id) from orders group by code order by code;

select json_agg(id order by id), jsonb_agg(total order by id), json_object_agg(id, note order by id) from orders where id < 5;

select array_agg(nums order by id) from orders where cardinality(nums) = 2 and id < 40;

select array_agg(spot order by customer_id) from customers;

select array_agg(status order by id), array_agg(distinct status order by status desc) from orders;

select percentile_cont(0.5) within group (order by total), percentile_disc(array[0.1, 0.9]) within group (order by id), mode() within group (order by code) from orders;

select code, percentile_cont(0.25) within group (order by weight) from orders group by code order by code;

select rank(50) within group (order by total), dense_rank('b') within group (order by cnote) from orders;

-- since: 16
select any_value(customer_id) from lone;

-- since: 16
select count(distinct any_value) from (select any_value(code) from orders) x;

select range_agg(span) from orders;

select range_intersect_agg(span) from orders where span is not null;

select count(o), count(o.*), count((o.code, o.note)), count(row(null)) from orders o;

select count(nothing), count(*) from nothing;

-- since: 18
select max((customer_id, id)) from orders;

-- GROUP BY.
-- rung: pushdown
select code, count(*) from orders group by code order by code;

-- rung: pushdown
select code, status, count(*), sum(total) from orders group by code, status order by 1, 2;

select count(*) from orders group by code order by 1;

select date_trunc('month', placed) as m, count(*) from orders group by date_trunc('month', placed) order by 1;

select date_trunc('month', placed) as m, count(*) from orders group by m order by m;

select extract(year from placed), count(*) from orders group by 1 order by 1;

select total > 50 as big, count(*) from orders group by big order by big nulls first;

select case when total > 50 then 'high' when total is null then null else 'low' end as band, count(*) from orders group by 1 order by 1;

select coalesce(code, '-') as code, count(*) from orders group by code order by 1;

select coalesce(code, '-') as c, count(*) from orders group by c order by c desc;

select -quantity as quantity, count(*) from orders group by quantity order by 1;

select upper(note) as note, count(*) from orders group by note order by 1, 2;

select lower(note) || 'x' as n, max(id) from orders group by n order by n nulls first;

select code, code || '!' as c, upper(code), count(*) from orders group by code order by 1;

select amount = 1, sum(amount) from orders group by 1 order by 1;

select trim_scale(amount + 0) as a, count(*) from orders group by a order by 1;

select trim_scale(amount), count(*) from orders group by 1 order by 1;

select weight, ratio, count(*) from orders group by 1, 2 order by 1, 2;

select attrs -> 'k' as k, count(*) from orders group by 1 order by 1;

select attrs ->> 's' as s, max((attrs ->> 'k')::int) from orders group by 1 order by 1;

select nums, count(*) from orders group by nums order by nums;

select span, count(*) from orders group by span order by span;

select status, count(*) from orders group by status order by status desc;

select moods, count(*) from orders group by moods order by moods;

select spot, count(*) from customers group by spot order by spot;

select padded, count(*), max(length(padded)) from orders group by padded order by padded;

select wait, count(*) from orders group by wait order by wait limit 5;

select doc, count(*) from orders group by doc order by doc limit 5;

select placed_at at time zone 'America/New_York' as t, count(*) from orders group by 1 order by 1 limit 5;

select active, active is null, count(*) from orders group by active order by 1;

select count(*) from orders group by (code, note) order by 1;

select code, note, count(*) from orders group by (code, note) order by 1, 2;

select 'x' as l, count(*) from orders group by l;

select 5, count(*) from orders group by 1;

select count(*) + 5, 5 from orders group by 2;

select null as n, count(*) from orders group by n;

select count(*) from orders group by 'x';

select count(*) from orders group by 2;

select code from orders group by count(*);

select code, note, count(*) from orders group by code;

select count(*) as note from orders group by note order by 1;

select max(id) as id, code from orders group by code order by max(id);

select customer_id from orders group by customer_id order by count(*) desc, customer_id limit 3;

select code, count(*) as n from orders group by code order by n + 1;

select code, count(*) from orders group by code order by count(*) + max(id) desc, code;

select code, count(*) n from orders group by code order by -count(*), code;

select code, sum(total) from orders group by code having sum(total) > 500 order by 1;

select code, sum(total) from orders group by code having count(*) > 20 and code is not null order by 2 desc limit 2 offset 1;

select customer_id, max(total) from orders group by customer_id having max(total) > 90 or customer_id = 7 order by 1;

select code, count(*) from orders where total > 10 group by code having avg(quantity) > 30 order by 1;

select sum(n) from (select code, count(*) as n from orders group by code) x;

select distinct count(*) from orders group by code order by 1;

select count(*), code from orders group by code order by code nulls first limit 2;

select max(count(*)) from orders group by code;

select sum(total) from orders where sum(total) > 1;

select customer_id, sum(total) over (partition by customer_id), count(*) from orders group by customer_id, total order by 1, 2, 3 limit 10;

-- Functional dependency on a primary key.
select customer_id, name, count(*) from customers group by customer_id order by 1;

select o.customer_id, o.id, o.note, count(i.line) from orders o left join items i on i.customer_id = o.customer_id and i.order_id = o.id group by o.customer_id, o.id order by 2;

select c.customer_id, c.name, sum(o.total) from customers c join orders o using (customer_id) group by c.customer_id order by 1;

select id, note from orders group by id;

select r.code, r.name, count(*) from orders o join country r on r.code = o.code group by r.code order by 1;

select login, age, count(*) from people group by login order by login;

-- Grouping sets.
select code, status, count(*), grouping(code, status) from orders group by rollup (code, status) order by 1, 2, 4;

select code, status, sum(total) from orders group by cube (code, status) order by 1, 2, 3;

select code, status, count(*) from orders group by grouping sets ((code), (status), ()) order by 1, 2, 3;

-- A cast to the type that a column has is no other expression.
-- rung: pushdown
select customer_id::bigint as c from lone group by grouping sets ((customer_id::bigint, customer_id), (customer_id), ()) order by 1;

select customer_id from lone group by cube (customer_id::bigint, customer_id) order by 1 desc;

select upper(code::text), count(*) from orders group by rollup (upper(code), upper(code::text)) order by 1, 2;

-- rung: pushdown
select status::text, count(*) from orders group by rollup (status) order by 1, 2;

select count(*) from orders group by ();

select count(*) from nothing group by rollup (customer_id);

select code, status, count(*) from orders group by distinct rollup (code, status), rollup (code) order by 1, 2, 3;

-- DISTINCT.
select distinct customer_id from orders order by 1;

select distinct code, status from orders order by 1, 2;

select distinct on (code) code, id, total from orders order by code, total desc nulls last, id;

select distinct on (customer_id) customer_id, id from orders order by customer_id, id desc limit 5;

select distinct code from orders order by code limit 2 offset 1;

select distinct upper(code) as u from orders order by u;

select distinct o.code, c.name from orders o join country c using (code) order by 1;

select distinct 1 from orders;

select distinct total from orders where customer_id = 7 order by total desc nulls last limit 3;

select distinct code from orders order by id;

-- Windows.
select id, row_number() over (order by id) from orders order by id limit 5;

select id, rank() over (partition by code order by total desc nulls last, id) from orders order by id;

select customer_id, id, sum(total) over (partition by customer_id order by id) from orders order by 1, 2;

select id, lag(total) over w, lead(note) over w, first_value(id) over w from orders window w as (order by id) order by id;

select id, count(*) over () from orders order by id limit 3;

select id, sum(quantity) over (order by id rows between 2 preceding and current row) from orders order by id;

select id, ntile(4) over (order by id), percent_rank() over (order by total, id) from orders order by id;

select code, count(*), rank() over (order by count(*) desc, code) from orders group by code order by 3;

select id, avg(total) filter (where active) over (partition by code order by id) from orders order by id limit 20;

select customer_id, count(*) over (partition by customer_id) from orders where customer_id = 3;

-- Variances and covariances are combined from those of the partitions.
-- rung: pushdown
select variance(quantity), var_samp(small), var_pop(big), stddev(quantity), stddev_samp(small), stddev_pop(big) from orders;

select variance(total), var_samp(total), var_pop(total), stddev(total), stddev_samp(total), stddev_pop(total) from orders;

select code, variance(amount), stddev(amount), stddev_pop(amount), var_pop(amount) from orders group by code order by code;

select active, status, stddev(total) filter (where quantity > 1), var_pop(total) filter (where false), variance(total) filter (where id = 7) from orders group by 1, 2 order by 1, 2;

select variance(weight), var_samp(ratio), var_pop(weight), stddev(ratio), stddev_samp(weight), stddev_pop(ratio) from orders;

select code, variance(weight), stddev_pop(weight), var_pop(ratio) from orders group by code order by code;

select regr_count(weight, ratio), regr_avgx(weight, ratio), regr_avgy(weight, ratio), regr_sxx(weight, ratio), regr_syy(weight, ratio), regr_sxy(weight, ratio) from orders;

select code, covar_pop(weight, ratio), covar_samp(weight, quantity), regr_count(total, weight) from orders group by code order by code;

select corr(weight, ratio), regr_slope(weight, ratio), regr_intercept(weight, ratio), regr_r2(weight, ratio) from orders;

select code, corr(weight, quantity), regr_slope(total, id) filter (where active), regr_r2(quantity, weight) from orders group by code order by code;

select corr(distinct quantity, small), regr_slope(total, quantity + 1) from orders having corr(total, quantity) < 2;

select corr(v, v), regr_slope(v, v), regr_intercept(v, v), regr_r2(v, v) from nothing;

select active, corr(weight, 1), regr_slope(weight, 7), regr_r2(3, weight), corr(null, weight) from orders group by active order by 1;

select corr(case when id % 50 = 0 then 'NaN'::float8 else weight end, ratio), regr_slope(weight, case when id = 7 then 'Infinity'::float8 else ratio end) from orders;

select code, corr(weight, ratio) over (partition by code), regr_slope(sum(weight), count(*)) over () from orders group by code, weight, ratio order by 1, 2, 3 limit 20;

select stddev(1e9::float8 + weight), var_pop(1e9::float8 + ratio), variance(1e9 + total) from orders;

select variance(v), stddev(v), var_pop(v), count(v), regr_count(v, v), regr_avgx(v, v), covar_samp(v, v) from nothing;

select variance(v), stddev(v), var_pop(v), stddev_pop(v) from lone;

select variance(case when id % 50 = 0 then 'NaN'::numeric else total end), stddev(case when id = 7 then 'Infinity'::numeric else total end) from orders;

select variance(case when id % 50 = 0 then 'NaN'::float8 else weight end), stddev(case when id = 7 then 'Infinity'::float8 else weight end) from orders;

select stddev(total * 1e-30), stddev(total * 1e30), stddev(amount * 1e100), variance(big) from orders;

select stddev(distinct total), variance(distinct quantity) from orders;

select code, active, stddev(total) from orders group by rollup (code, active) order by 1, 2;

select code, stddev(total) over (partition by code order by id), id from orders order by id;
