-- Consents on their way: from a user's wish to connect a broker until the code that came back is spent.
-- oldest: 1

-- Nothing in a row opens anything by itself: state, cookie and ticket are hashed, the code is sealed. `expires_at` says
-- how long the present step may last; the row is kept a while longer, so that what comes late is told why.
create table public.bridge_consents (
  state_hash bytea primary key check (octet_length(state_hash) = 32),
  user_key text collate "C" not null
    references public.bridge_users on update cascade on delete cascade deferrable initially deferred,
  broker text collate "C" not null,
  scope text not null check (scope in ('accounts', 'trading')),
  return_to text not null,
  step text not null default 'started' check (step in ('started', 'begun', 'parked', 'spent', 'denied', 'stolen')),
  cookie_hash bytea check (octet_length(cookie_hash) = 32),
  ticket_hash bytea unique check (octet_length(ticket_hash) = 32),
  sealed_code bytea,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  check ((step = 'parked') = (sealed_code is not null))
);
create index bridge_consents_user on public.bridge_consents (user_key, broker, created_at);
create index bridge_consents_expiry on public.bridge_consents (expires_at);
alter table public.bridge_consents enable row level security;
revoke all on public.bridge_consents from public, anon, authenticated;
grant all on public.bridge_consents to service_role;
