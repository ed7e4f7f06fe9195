-- oldest: 1
-- The general cache: derived values that several processes share and that may be gone at any moment. Kept out of the
-- write-ahead log: after a crash of the server it is empty, which costs a second load of each value and nothing else.
-- No user's role may read it.
create unlogged table public.bridge_cache (
  key text collate "C" primary key check (length(key) between 1 and 512),
  value bytea not null check (octet_length(value) <= 262144),
  expires_at timestamptz not null
);
create index bridge_cache_expires_at on public.bridge_cache (expires_at);
alter table public.bridge_cache enable row level security;
revoke all on public.bridge_cache from public, anon, authenticated;
grant all on public.bridge_cache to service_role;
