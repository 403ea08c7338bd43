-- Statements over columns of rare types: nested composites, domains, arrays of those, what cannot be sorted or hashed.

select * from zoo t order by id;

select e, count(*) from zoo t group by e order by e;

select gm, count(*), max(gm::mood), min(gm::mood) from zoo t group by gm order by gm desc;

select max(e), min(e), max(ch), max(nm), max(mon), max(ip), max(lsn), max(tz), max(b::text), max(c1), max(bp), max(n0), max(n1), max(iv), max(ts0) from zoo t;

select sum(mon), avg(n0), sum(n1), sum(iv) from zoo t;

select o, count(*) from zoo t group by o order by o;

select os, count(*) from zoo t group by os order by os;

select pairs, ods, od, gms, max(id) from zoo t group by 1, 2, 3, 4 order by 5;

select array_agg(o order by id), array_agg(os order by id) filter (where os is not null) from zoo t where id < 9;

select array_agg(gm order by id), array_agg(od order by id), array_agg(mr order by id) from zoo t;

select k, array_agg(o order by id), array_agg(gms order by id) filter (where gms is not null and id not in (1)), max(gm::mood) from zoo t group by k order by k;

select (o).i, ((o).i).m, (o).ms, ((o).ms)[1], (os[1]).i, count(*) from zoo t group by 1,2,3,4,5 order by 1,2,3,4,5;

select t.id, u.id, u.o from zoo t join cubs u on u.id = t.id order by 1, 2, u.k, u.m;

select t.id, u.o from zoo t left join cubs u on u.o = t.o order by 1, 2;

select t.id, r.o from zoo t left join keepers r on r.o = t.o order by 1, 2;

select t.id, r.id from zoo t join keepers r on ((r.o).i).m = ((t.o).i).m order by 1, 2;

select t.id, u.id from zoo t join cubs u on u.m = t.gm::mood order by 1, 2;

select t.id from zoo t where gm::mood in (select m from cubs u) order by 1;

select t.id from zoo t where o in (select o from cubs u) order by 1;

select distinct o from zoo t order by o;

select distinct os, gm from zoo t order by os, gm;

select distinct on (gm) gm, id, o from zoo t order by gm, id desc;

select fr, count(*) from zoo t group by fr order by fr;

select mr, mm, mmr, x from zoo t order by id;

select range_agg(fr), range_intersect_agg(x) from zoo t;

select range_agg(mmr), range_agg(mr) from zoo t;

select b, vb, count(*), bit_or(b) from zoo t group by b, vb order by b, vb;

select b || vb, b & b'0110' from zoo t order by id;

select ip, c, mac from zoo t order by ip, c, mac, id;

select network(ip), count(*) from zoo t group by 1 order by 1;

select j, id from zoo t order by id;

select j ->> 'a', count(*) from zoo t group by 1 order by 1;

select distinct j from zoo t;

select json_agg(j order by id) from zoo t;

select p, box, p <-> point '(0,0)' from zoo t order by p <-> point '(0,0)', id;

select id from zoo t where p ~= point '(1,1)' order by id;

select ch, count(*) from zoo t group by ch order by ch;

select nm, v, count(*) from zoo t group by nm, v order by nm, v;

select string_agg(nm, ',' order by id), string_agg(v, ',' order by v collate "C", id) from zoo t;

select tsv, tsq, tsv @@ tsq from zoo t order by id;

select ts_rank(tsv, to_tsquery('simple', 'a')), id from zoo t order by 1, 2;

select lsn, pth, n0, n1, iv, ts0, c1, vc from zoo t order by id;

select c1, count(*) from zoo t group by c1 order by c1;

select bp, length(bp), bp = 'abc', count(*) from zoo t group by bp order by bp;

select number, sum(id) from zoo t group by number order by number;

select id, tz, tz at time zone 'UTC' from zoo t order by tz, id;

select max(tz), min(tz) from zoo t;

select x.o, x.c from (select o, count(*) c from zoo t group by o union all select o, count(*) from cubs u group by o) x order by 1, 2;

select o from zoo t union select o from cubs u order by 1;

select o from zoo t intersect select o from zoo t order by 1;

select gm from zoo t except select m from cubs u order by 1;

select os from zoo t union all select os from keepers r order by 1;

select lag(o) over (order by id), first_value(os) over (partition by gm order by id) from zoo t order by id;

select row_number() over (order by o, id), rank() over (order by fr, gm) from zoo t order by id;

with a as (select o, os, gm, k from zoo t), b as (select * from a where gm is not null) select b.*, u.o from b left join cubs u on u.o = b.o order by 1, 2, 3, 4, 5;

select (select max(gm::mood) from zoo t), (select o from zoo t order by id limit 1), (select os from zoo t where id = 1) from cubs u order by 1 limit 2;

select id from zoo t where gm::mood = (select min(gm::mood) from zoo t where gm is not null) order by id;

select id from zoo t where o = (select o from zoo t order by o nulls last limit 1) order by id;

select * from cubs u, lateral (select array_agg(t.o order by t.id) from zoo t where t.id = u.id) x order by u.k, u.id, u.m;

select * from keepers r left join zoo t using (id) order by 1;

select r, t.id from keepers r left join zoo t using (id) order by 1, 2;

select r.os, u.o, r is null from keepers r full join cubs u on u.o = r.o order by 1, 2;

select tv.*, uv.* from even tv left join oldest uv using (id) order by 1, 2;

select gm, array_agg(os order by id) from even tv where os is not null group by gm order by gm;

select mode() within group (order by gm), percentile_disc(0.5) within group (order by gm), percentile_disc(0.3) within group (order by o) from zoo t;

select unnest(os), id from zoo t order by id, 1;

select (unnest(os)).*, id from zoo t order by id, 1;

select x.*, id from zoo t, unnest(os) x order by id, 1;

select x.i, x.note, id from zoo t, unnest(os) x(i, ms, note) order by id, 1;

select * from unnest(array['sad', 'ok']::mood[]) m left join cubs u using (m) order by 1, 2, 3;

select enum_range(null::mood), enum_first(gm::mood), count(*) from zoo t group by 2 order by 2;

select row(o, gm, k), row(t.*) is null from zoo t order by id;

select row(o, gm)::text, (row(gm, 1)::pair).m from zoo t order by id;

select o::text, os::text, fr::text from zoo t order by id;

select to_jsonb(t) from zoo t order by id;

select jsonb_populate_record(null::pair, '{"m":"ok","n":3}'), count(*) from zoo t;

select * from jsonb_populate_recordset(null::pair, '[{"m":"ok","n":3}]') x join cubs u on u.m = x.m order by 1, 2, 3, 4, 5;

-- refused: SP117
select null::cubs from cubs u;

select cast(row(m,2) as pair) from cubs u order by 1;

-- params: {"m": "ok"}
select id from zoo t where gm::mood = :m order by id;

-- params: {"m": ["ok", "happy"]}
select id from zoo t where gm::mood = any(cast(:m as good_mood[])::mood[]) order by id;

-- params: {"m": ["ok", "happy"]}
select id from zoo t where gm::mood = any(cast(:m as mood[])) order by id;

-- params: {"o": "(\"(ok,1)\",,)"}
select id from cubs u where o = cast(:o as nested) order by id;

select numrange(n0, n0 + 1), int8range(k, k+1), count(*) from zoo t group by 1, 2 order by 1, 2;

select fr from zoo t where fr @> 3::numeric order by id;

select numrange(1, 2), count(*) from zoo t;

select cube.k, grouping(cube.k) from (select k, gm from zoo t) cube group by rollup(cube.k, gm) order by 1, 2, gm;

select e || 'x', e like 'a1%' from zoo t where e is not null order by e collate "C";

select sum(ds[1]), ds[1:1], cardinality(ds) from zoo t group by 2, 3 order by 2, 3;

select ds || 5, ds = '{1,2}' from zoo t order by id;

select n0 + 0.001, n1 * 3, round(n0, -3), trunc(n1, 4) from zoo t order by id;

select stddev(n0), var_pop(n1), avg(n1), sum(n0) from zoo t;

select extract(second from iv), iv + ts0, date_trunc('hour', ts0) from zoo t order by id;

select width_bucket(n0, 0, 3000, 3), count(*) from zoo t group by 1 order by 1;

-- One set can only be sorted, the other only hashed.
select b, id::text::xid as x, grouping(b) as g, count(*) as n from zoo group by grouping sets ((b), (id::text::xid)) order by 3, 4, 1;
