-- What every later migration builds on: facts about this database, the app's users, and who may see what.
-- oldest: 1

-- The roles that Supabase has and other servers lack. A caller's role is set per request; none of them can log in here.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
      begin
        execute format('create role %I nologin%s', wanted, case when wanted = 'service_role' then ' bypassrls' else '' end);
      exception when duplicate_object or unique_violation then
        null;  -- roles belong to the whole server: another database's migration was faster
      end;
    end if;
  end loop;
end
$$;

-- Which migrations this database has. `oldest`: the oldest version of the bridge that works with it since then.
create table public.bridge_migrations (
  version integer primary key,
  name text not null,
  checksum text not null,
  oldest integer not null,
  applied_at timestamptz not null default now()
);
alter table public.bridge_migrations enable row level security;
revoke all on public.bridge_migrations from public, anon, authenticated;
grant all on public.bridge_migrations to service_role;

-- Facts about this database, by name: database_id, user_id_claim, user_key_mode …
create table public.bridge_facts (
  name text primary key,
  value text not null
);
alter table public.bridge_facts enable row level security;
revoke all on public.bridge_facts from public, anon, authenticated;
grant all on public.bridge_facts to service_role;
insert into public.bridge_facts (name, value) values ('database_id', gen_random_uuid()::text), ('user_id_claim', 'sub');

-- Which user has which key. The only place where the app's own user id stands: no caller's role may read it.
-- `audit_id` names the user in the audit log; with this row erased, it names nobody.
create table public.bridge_users (
  user_key text primary key check (user_key ~ '^[0-9a-f]{64}$'),
  user_id text not null unique,
  audit_id uuid not null default gen_random_uuid() unique,
  created_at timestamptz not null default now()
);
alter table public.bridge_users enable row level security;
revoke all on public.bridge_users from public, anon, authenticated;
grant all on public.bridge_users to service_role;

-- The user key of the signed-in caller, null for anybody else: who the bridge would not take for a person (see
-- bridge/api/user_tokens.py) is nobody here too, above all who has not confirmed the e-mail address that is the user id.
-- The user id is the claim that the bridge was told to use, brought into the form in which ids are stored: NFC, without
-- white space around it (of any kind that Unicode knows).
create function public.bridge_my_user_key() returns text
language sql stable security definer set search_path = ''
as $$
  select u.user_key
  from (
    select nullif(current_setting('request.jwt.claims', true), '')::json as claims, f.value as claim
    from public.bridge_facts f where f.name = 'user_id_claim'
  ) t
  join public.bridge_users u on u.user_id = btrim(
    normalize(t.claims ->> t.claim, nfc),
    U&'\0009\000A\000B\000C\000D\001C\001D\001E\001F\0020\0085\00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008'
      '\2009\200A\2028\2029\202F\205F\3000'
  )
  where json_typeof(t.claims -> t.claim) = 'string'
    and coalesce((t.claims -> 'role')::text, '"authenticated"') = '"authenticated"'
    and coalesce((t.claims -> 'is_anonymous')::text, 'false') = 'false'
    and (
      t.claim <> 'email'
      or coalesce((t.claims -> 'email_verified')::text, 'true') = 'true'
      and coalesce((t.claims -> 'user_metadata' -> 'email_verified')::text, 'true') = 'true'
    )
$$;
revoke all on function public.bridge_my_user_key() from public, anon;
grant execute on function public.bridge_my_user_key() to authenticated, service_role;
