-- Users' consents: sealed tokens, what they cover, and who may renew them at the moment.
-- oldest: 1

-- One row for each user and broker. `sealed` null: the user's credentials were removed; the row stays, so that neither
-- the credentials file nor an older settings row brings them back.
create table public.bridge_grants (
  id uuid primary key default gen_random_uuid(),
  user_key text collate "C" not null
    references public.bridge_users on update cascade on delete cascade deferrable initially deferred,
  broker text collate "C" not null,
  environment text not null check (environment in ('demo', 'live')),
  account_id text, -- the account that the user chose when connecting
  scope text check (scope in ('accounts', 'trading')), -- null: not known
  accounts jsonb not null default '[]', -- what the broker listed
  accounts_at timestamptz, -- and when
  sealed bytea, -- the token pair; opens for this user and broker only
  key_id text collate "C", -- of the key that sealed it
  version bigint not null default 1, -- number of the token pair
  expires_at timestamptz, -- of the access token; null: not known
  refresh_owner text, -- who has the right to send this pair's refresh token, once
  refresh_until timestamptz, -- until when, by the database's clock
  refresh_attempts smallint not null default 0, -- how often it may have been sent
  refusal text, -- code of the broker's final refusal of this pair
  source text not null check (source in ('entered', 'consent', 'settings')),
  source_print text, -- of the settings row as last seen; '': there was none; null: not looked yet
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  unique (user_key, broker),
  check ((sealed is null) = (key_id is null)),
  check ((refresh_owner is null) = (refresh_until is null))
) with (fillfactor = 70);
create index bridge_grants_key_id on public.bridge_grants (key_id, id);
alter table public.bridge_grants enable row level security;
revoke all on public.bridge_grants from public, anon, authenticated;
grant all on public.bridge_grants to service_role;
grant select (user_key, broker, environment, account_id, scope, accounts, accounts_at, expires_at, source, created_at, updated_at)
  on public.bridge_grants to authenticated;
create policy bridge_grants_own on public.bridge_grants
  for select to authenticated
  using (sealed is not null and user_key = (select public.bridge_my_user_key()));
