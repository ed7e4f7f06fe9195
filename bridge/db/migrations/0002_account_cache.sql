-- Where records live: the table of records, the key-value tables of Supabase projects, and the one compare for both.
-- oldest: 1

-- Half of every page stays free: a record is rewritten every few seconds, in place. `document` is the JSON that was
-- written, byte for byte; null: claimed, or removed. Users read their own rows.
create table public.account_cache (
  key text collate "C" primary key,
  user_key text collate "C" generated always as (nullif(substr(split_part(key, '_account_', 2), 1, 64), '')) stored,
  fence bigint not null check (fence between 0 and 9007199254740991),
  version bigint not null check (version between 0 and 9007199254740991),
  document json,
  updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
-- no statistics: what the planner expects of somebody else's key (PostgREST: count=planned) would tell how many they have
alter table public.account_cache alter column user_key set statistics 0;
create index account_cache_user on public.account_cache (user_key);
alter table public.account_cache enable row level security;
revoke all on public.account_cache from public, anon, authenticated;
grant all on public.account_cache to service_role;
grant select (key, user_key, fence, version, document, updated_at) on public.account_cache to authenticated;
create policy "users read their own records" on public.account_cache
  for select to authenticated using (user_key = (select public.bridge_my_user_key()));

-- Every fence that was ever claimed, in the write-ahead log also while the records are not (CACHE_UNLOGGED).
create table public.bridge_cache_fences (
  key text collate "C" primary key,
  fence bigint not null
);
alter table public.bridge_cache_fences enable row level security;
revoke all on public.bridge_cache_fences from public, anon, authenticated;
grant all on public.bridge_cache_fences to service_role;

-- Names the life of the data. Postgres empties an unlogged table after a crash and on a promoted standby: just when
-- records may have been lost.
create unlogged table public.bridge_cache_life (
  one boolean primary key default true check (one),
  life uuid not null default gen_random_uuid()
);
alter table public.bridge_cache_life enable row level security;
revoke all on public.bridge_cache_life from public, anon, authenticated;
grant all on public.bridge_cache_life to service_role;

-- The key-value table for records where none is named. Same shape as those that Supabase projects already have.
create table public.kv_store_bridge (
  key text collate "C" primary key,
  value jsonb
) with (fillfactor = 50);
alter table public.kv_store_bridge enable row level security;
revoke all on public.kv_store_bridge from public, anon, authenticated;
grant all on public.kv_store_bridge to service_role;

-- Changes when what is stored may have been lost: crash, failover, TRUNCATE. Whoever finds the life gone begins a new one
-- and puts the fences back first; the others wait for that at the unique key.
create function public.bridge_cache_generation(p_table text) returns text
language plpgsql set search_path = ''
as $$
declare
  found_life uuid;
begin
  select l.life into found_life from public.bridge_cache_life l;
  if found_life is null then
    insert into public.bridge_cache_life default values on conflict do nothing;
    if found then
      insert into public.account_cache as t (key, fence, version)
      select f.key, f.fence, 0 from public.bridge_cache_fences f order by f.key
      on conflict (key) do update set fence = excluded.fence, version = 0 where t.fence < excluded.fence;
    end if;
    select l.life into found_life from public.bridge_cache_life l;
  end if;
  return found_life || '.' || pg_relation_filenode(to_regclass(format('public.%I', p_table)));
end
$$;

-- The generation, or the error that a write would meet.
create function public.bridge_cache_ping(p_table text) returns text
language plpgsql set search_path = ''
as $$
declare
  found_table regclass := to_regclass(format('public.%I', p_table));
begin
  if found_table is null then
    raise exception 'there is no table public.%', p_table using errcode = 'undefined_table';
  end if;
  if not (has_table_privilege(found_table, 'select') and has_table_privilege(found_table, 'insert')
          and has_table_privilege(found_table, 'update')) then
    raise exception 'role % may not read and write table public.%', current_user, p_table
      using errcode = 'insufficient_privilege';
  end if;
  perform from public.bridge_cache_life for update;  -- refused where nothing can be written
  return public.bridge_cache_generation(p_table);
end
$$;

-- A bridge begins to keep its records in this table: `my_account` reads them there. Answers the generation.
create function public.bridge_cache_open(p_table text) returns text
language plpgsql set search_path = ''
as $$
begin
  if p_table <> 'account_cache' then
    perform public.bridge_kv_table(p_table);
  end if;
  insert into public.bridge_facts as t (name, value) values ('records_table', p_table)
  on conflict (name) do update set value = excluded.value where t.value <> excluded.value;
  return public.bridge_cache_ping(p_table);
end
$$;

-- ---------------------------------------------------------------- the table of records

-- Raises the fence of each key to max(stored + 1, this server's clock in ms, p_at_least); answers the fences in order.
create function public.bridge_cache_claim(p_keys text[], p_at_least bigint) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
  answer bigint[];
begin
  perform public.bridge_cache_generation('account_cache');
  with claimed as (
    insert into public.account_cache as t (key, fence, version)
    select k, greatest(floor(extract(epoch from clock_timestamp()) * 1000)::bigint, p_at_least), 0
    from (select distinct k collate "C" from unnest(p_keys) k) u(k) order by k
    on conflict (key) do update
    set fence = greatest(t.fence + 1, excluded.fence), version = 0, updated_at = clock_timestamp()
    returning t.key, t.fence
  ), kept as (
    insert into public.bridge_cache_fences as t (key, fence) select c.key, c.fence from claimed c
    on conflict (key) do update set fence = greatest(t.fence, excluded.fence)
  )
  select array_agg(c.fence order by g.n) into answer
  from unnest(p_keys) with ordinality g(key, n) join claimed c on c.key = g.key;
  return answer;
end
$$;

-- Writes what is newer than what is stored, in one step. The rows come sorted by key, so that batches which cross wait
-- for one another instead of locking up; sorting documents here would cost a fifth of the write. Answers {generation, accepted: how many,
-- refused: [[key, fence, version] as stored], failed: [[key, fence, version as stored or 0, SQLSTATE]]}. A row that cannot
-- be stored fails alone: the batch is halved until it stands by itself.
create function public.bridge_cache_write(
  p_keys text[], p_fences bigint[], p_versions bigint[], p_documents text[]
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  generation text := public.bridge_cache_generation('account_cache');
  taken text[];
  rest jsonb := '[]';
begin
  with written as (
    insert into public.account_cache as t (key, fence, version, document, updated_at)
    select g.key, g.fence, g.version, g.document::json, clock_timestamp()
    from unnest(p_keys, p_fences, p_versions, p_documents) g(key, fence, version, document)
    on conflict (key) do update
    set fence = excluded.fence, version = excluded.version, document = excluded.document, updated_at = excluded.updated_at
    where (t.fence, t.version) < (excluded.fence, excluded.version)
    returning t.key
  )
  select coalesce(array_agg(w.key), '{}') into taken from written w;
  if cardinality(taken) < cardinality(p_keys) then  -- a new statement, which sees what refused us
    select jsonb_agg(jsonb_build_array(g.key, coalesce(t.fence, 0), coalesce(t.version, 0))) into rest
    from unnest(p_keys) g(key) left join public.account_cache t on t.key = g.key
    where not exists (select from unnest(taken) w(key) where w.key = g.key);
  end if;
  return jsonb_build_object(
    'generation', generation, 'accepted', cardinality(taken), 'refused', rest, 'failed', '[]'::jsonb
  );
exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
  if cardinality(p_keys) = 1 then
    select jsonb_agg(jsonb_build_array(p_keys[1], coalesce(t.fence, 0), coalesce(t.version, 0), sqlstate)) into rest
    from (select) as nothing left join public.account_cache t on t.key = p_keys[1];
    return jsonb_build_object('generation', generation, 'accepted', 0, 'refused', '[]'::jsonb, 'failed', rest);
  end if;
  declare
    half integer := cardinality(p_keys) / 2;
  begin
    return public.bridge_cache_joined(
      public.bridge_cache_write(p_keys[:half], p_fences[:half], p_versions[:half], p_documents[:half]),
      public.bridge_cache_write(p_keys[half+1:], p_fences[half+1:], p_versions[half+1:], p_documents[half+1:])
    );
  end;
end
$$;

-- Two answers as one.
create function public.bridge_cache_joined(p_one jsonb, p_other jsonb) returns jsonb
language sql immutable set search_path = ''
as $$
  select jsonb_build_object(
    'generation', p_other -> 'generation',
    'accepted', (p_one -> 'accepted')::bigint + (p_other -> 'accepted')::bigint,
    'refused', (p_one -> 'refused') || (p_other -> 'refused'),
    'failed', (p_one -> 'failed') || (p_other -> 'failed')
  )
$$;

-- ---------------------------------------------------------------- key-value tables

-- The quoted name of a key-value table; no other table can be reached through these functions.
create function public.bridge_kv_table(p_table text) returns text
language plpgsql stable set search_path = ''
as $$
begin
  if p_table ~ '^kv_store_[a-z0-9_]{1,50}$' then
    return format('public.%I', p_table);
  end if;
  raise exception 'not a key-value table: %', coalesce(left(p_table, 100), 'null') using errcode = 'undefined_table';
end
$$;

-- SQL that reads [fence, version] from t.value. A value of any other shape is older than everything.
create function public.bridge_kv_stamp() returns text
language sql immutable set search_path = ''
as $$
  select $sql$case
    when t.value ->> 'fence' ~ '^[0-9]{1,16}$' and lpad(t.value ->> 'fence', 16, '0') <= '9007199254740991'
     and t.value ->> 'version' ~ '^[0-9]{1,16}$' and lpad(t.value ->> 'version', 16, '0') <= '9007199254740991'
    then array[(t.value ->> 'fence')::bigint, (t.value ->> 'version')::bigint] else '{-1,-1}'::bigint[] end$sql$
$$;

-- As bridge_cache_claim. A key without a record holds {"fence", "version", "_empty": true}.
create function public.bridge_kv_claim(p_table text, p_keys text[], p_at_least bigint) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
  answer bigint[];
begin
  execute format($sql$
    with claimed as (
      insert into %1$s as t (key, value)
      select distinct on (k collate "C") k, jsonb_build_object(
        'fence', greatest(floor(extract(epoch from clock_timestamp()) * 1000)::bigint, $2), 'version', 0, '_empty', true)
      from unnest($1) k order by k collate "C"
      on conflict (key) do update
      set value = (case when jsonb_typeof(t.value) = 'object' then t.value else '{"_empty": true}' end)
        || jsonb_build_object('fence', greatest((%2$s)[1] + 1, (excluded.value ->> 'fence')::bigint), 'version', 0)
      returning t.key, (t.value ->> 'fence')::bigint as fence
    )
    select array_agg(c.fence order by g.n) from unnest($1) with ordinality g(key, n) join claimed c on c.key = g.key
  $sql$, public.bridge_kv_table(p_table), public.bridge_kv_stamp()) into answer using p_keys, p_at_least;
  return answer;
end
$$;

-- As bridge_cache_write; fence and version are read from the stored value and written into the new one.
create function public.bridge_kv_write(
  p_table text, p_keys text[], p_fences bigint[], p_versions bigint[], p_documents text[]
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  target text := public.bridge_kv_table(p_table);
  generation text := public.bridge_cache_generation(p_table);
  taken text[];
  rest jsonb := '[]';
begin
  execute format($sql$
    with written as (
      insert into %1$s as t (key, value)
      select g.key, jsonb_set(jsonb_set(g.document::jsonb, '{fence}', to_jsonb(g.fence)), '{version}', to_jsonb(g.version))
      from unnest($1, $2, $3, $4) g(key, fence, version, document)
      on conflict (key) do update set value = excluded.value
      where (%2$s) < array[(excluded.value ->> 'fence')::bigint, (excluded.value ->> 'version')::bigint]
      returning t.key
    )
    select coalesce(array_agg(w.key), '{}') from written w
  $sql$, target, public.bridge_kv_stamp()) into taken using p_keys, p_fences, p_versions, p_documents;
  if cardinality(taken) < cardinality(p_keys) then
    execute format($sql$
      select jsonb_agg(jsonb_build_array(g.key, greatest((%2$s)[1], 0), greatest((%2$s)[2], 0)))
      from unnest($1) g(key) left join %1$s t on t.key = g.key
      where not exists (select from unnest($2) w(key) where w.key = g.key)
    $sql$, target, public.bridge_kv_stamp()) into rest using p_keys, taken;
  end if;
  return jsonb_build_object(
    'generation', generation, 'accepted', cardinality(taken), 'refused', rest, 'failed', '[]'::jsonb
  );
exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
  if cardinality(p_keys) = 1 then
    execute format($sql$
      select jsonb_agg(jsonb_build_array($1[1], greatest((%2$s)[1], 0), greatest((%2$s)[2], 0), $2))
      from (select) as nothing left join %1$s t on t.key = $1[1]
    $sql$, target, public.bridge_kv_stamp()) into rest using p_keys, sqlstate;
    return jsonb_build_object('generation', generation, 'accepted', 0, 'refused', '[]'::jsonb, 'failed', rest);
  end if;
  declare
    half integer := cardinality(p_keys) / 2;
  begin
    return public.bridge_cache_joined(
      public.bridge_kv_write(p_table, p_keys[:half], p_fences[:half], p_versions[:half], p_documents[:half]),
      public.bridge_kv_write(
        p_table, p_keys[half+1:], p_fences[half+1:], p_versions[half+1:], p_documents[half+1:]
      )
    );
  end;
end
$$;

-- Removes records; their fences stay. Answers how many there were.
create function public.bridge_kv_remove(p_table text, p_keys text[]) returns integer
language plpgsql set search_path = ''
as $$
declare
  removed integer;
begin
  execute format($sql$
    with held as (select t.key from %1$s t where t.key = any($1) order by t.key collate "C" for update)
    update %1$s t set value = jsonb_build_object(
      'fence', greatest((%2$s)[1], 0), 'version', greatest((%2$s)[2], 0), '_empty', true
    ) from held where t.key = held.key
  $sql$, public.bridge_kv_table(p_table), public.bridge_kv_stamp()) using p_keys;
  get diagnostics removed = row_count;
  return removed;
end
$$;

-- ---------------------------------------------------------------- for signed-in users

-- The caller's own record of their default account at a broker, from where the bridge keeps records; null: none.
create function public.my_account(broker text) returns json
language plpgsql stable security definer set search_path = ''
as $$
declare
  own text := broker || '_account_' || public.bridge_my_user_key();
  place text := coalesce((select f.value from public.bridge_facts f where f.name = 'records_table'), 'account_cache');
  answer json;
begin
  if place = 'account_cache' then
    select t.document into answer from public.account_cache t where t.key = own;
  else
    execute format(
      'select t.value::json from %s t where t.key = $1 and not coalesce(t.value ? ''_empty'', true)',
      public.bridge_kv_table(place)
    ) into answer using own;
  end if;
  return answer;
end
$$;

-- ---------------------------------------------------------------- who may call

revoke all on function
  public.bridge_cache_generation(text), public.bridge_cache_ping(text), public.bridge_cache_open(text),
  public.bridge_cache_claim(text[], bigint), public.bridge_cache_write(text[], bigint[], bigint[], text[]),
  public.bridge_cache_joined(jsonb, jsonb), public.bridge_kv_table(text), public.bridge_kv_stamp(),
  public.bridge_kv_claim(text, text[], bigint), public.bridge_kv_write(text, text[], bigint[], bigint[], text[]),
  public.bridge_kv_remove(text, text[]), public.my_account(text)
from public, anon, authenticated;
grant execute on function
  public.bridge_cache_generation(text), public.bridge_cache_ping(text), public.bridge_cache_open(text),
  public.bridge_cache_claim(text[], bigint), public.bridge_cache_write(text[], bigint[], bigint[], text[]),
  public.bridge_cache_joined(jsonb, jsonb), public.bridge_kv_table(text), public.bridge_kv_stamp(),
  public.bridge_kv_claim(text, text[], bigint), public.bridge_kv_write(text, text[], bigint[], bigint[], text[]),
  public.bridge_kv_remove(text, text[]), public.my_account(text)
to service_role;
grant execute on function public.my_account(text) to authenticated;
