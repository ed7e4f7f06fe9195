-- Which sessions users want, and which account is their default: what a restart is made from.
-- oldest: 1

-- One row for each account that a user ever started at a broker. Rows are not deleted on stop: a repeated stop and the
-- listings answer from them. `account_id` is empty while the login has not told which account it is.
create table public.bridge_sessions (
  user_key text collate "C" not null
    references public.bridge_users on update cascade on delete cascade deferrable initially deferred,
  broker text collate "C" not null,
  account_id text collate "C" not null default '',
  environment text not null check (environment in ('demo', 'live')),
  wanted boolean not null,
  command bigint not null default 1, -- grows with every accepted start, stop and idle end
  at_risk boolean not null default false, -- positions or working orders when last seen: comes back first
  reason text check (reason in ('stopped', 'idle')), -- why it is not wanted any more
  owes_record boolean not null default false, -- it ended, and its last record may not have been written
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz not null default clock_timestamp(),
  stopped_at timestamptz,
  last_used_at timestamptz not null default clock_timestamp(), -- last start or read, to about an hour
  primary key (user_key, broker, account_id),
  check (wanted = (reason is null)),
  check (wanted = (stopped_at is null))
) with (fillfactor = 70);
alter table public.bridge_sessions alter column user_key set statistics 0; -- see account_cache
alter table public.bridge_sessions enable row level security;
revoke all on public.bridge_sessions from public, anon, authenticated;
grant all on public.bridge_sessions to service_role;
grant select (user_key, broker, account_id, environment, wanted, reason, created_at, started_at, stopped_at, last_used_at)
  on public.bridge_sessions to authenticated;
create policy bridge_sessions_own on public.bridge_sessions
  for select to authenticated using (user_key = (select public.bridge_my_user_key()));

-- The account whose record has the plain key: the first one ever started there, for good.
create table public.bridge_default_accounts (
  user_key text collate "C" not null
    references public.bridge_users on update cascade on delete cascade deferrable initially deferred,
  broker text collate "C" not null,
  account_id text collate "C" not null check (account_id <> ''),
  environment text not null check (environment in ('demo', 'live')), -- where it was last started
  created_at timestamptz not null default clock_timestamp(),
  primary key (user_key, broker)
);
alter table public.bridge_default_accounts enable row level security;
revoke all on public.bridge_default_accounts from public, anon, authenticated;
grant all on public.bridge_default_accounts to service_role;
grant select (user_key, broker, account_id, environment) on public.bridge_default_accounts to authenticated;
create policy bridge_default_accounts_own on public.bridge_default_accounts
  for select to authenticated using (user_key = (select public.bridge_my_user_key()));
