-- Which process serves which session: a lease for each process, and an owner and a fence for each session.
-- oldest: 7

-- One row for each process that runs, under a name that is used once: whoever finds a lease that has ended removes the
-- row, and from then on no session is owned under that name, whatever its rows say. Times by this server's clock only.
create table public.bridge_processes (
  owner text collate "C" primary key check (owner ~ '^[0-9a-f]{12}$'),
  version text not null,
  capacity integer not null check (capacity > 0), -- sessions are shared out in proportion to it
  draining boolean not null default false, -- an operator wants it empty: it gives its sessions up and takes none
  sessions json not null default '{}', -- by record status, as it last said
  started_at timestamptz not null default clock_timestamp(),
  renewed_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null
) with (fillfactor = 50);
alter table public.bridge_processes enable row level security;
revoke all on public.bridge_processes from public, anon, authenticated;
grant all on public.bridge_processes to service_role;

-- A session is owned when `owner` has a row in bridge_processes. The fence grows with every change of owner, in the same
-- statement; the records of a session are written under it or above it. A release before this one leaves these columns
-- alone. No user's role may read them.
alter table public.bridge_sessions
  add column owner text collate "C",
  add column fence bigint not null default 0 check (fence between 0 and 9007199254740991),
  add column move_to text collate "C", -- the process that an operator wants to serve it
  add column changed_at timestamptz not null default clock_timestamp(); -- last command, change of owner or wish to move

-- Who owns how many, and what nobody owns.
create index bridge_sessions_owner on public.bridge_sessions (owner, broker) where wanted or owes_record;
-- What an owner has to look at again.
create index bridge_sessions_changed on public.bridge_sessions (changed_at);

-- The fence after this one: higher, and never below this server's clock.
create function public.bridge_raised_fence(p_fence bigint) returns bigint
language sql volatile set search_path = ''
as $$
  select greatest(p_fence + 1, floor(extract(epoch from clock_timestamp()) * 1000)::bigint)
$$;

-- Who serves a session after a command: who serves it now, else the process that was asked, if it has a lease. Volatile,
-- so that a process which has just joined, and claimed the row before we had its lock, is seen.
create function public.bridge_session_owner(p_owner text, p_asked text) returns text
language sql volatile set search_path = ''
as $$
  select coalesce(
    (select p.owner from public.bridge_processes p where p.owner = p_owner),
    (select p.owner from public.bridge_processes p where p.owner = p_asked)
  )
$$;

-- The fence that goes with that.
create function public.bridge_session_fence(p_owner text, p_asked text, p_fence bigint) returns bigint
language sql volatile set search_path = ''
as $$
  select case when coalesce(public.bridge_session_owner(p_owner, p_asked), p_owner) is distinct from p_owner
    then public.bridge_raised_fence(p_fence) else p_fence end
$$;

revoke all on function
  public.bridge_raised_fence(bigint), public.bridge_session_owner(text, text),
  public.bridge_session_fence(text, text, bigint)
from public, anon, authenticated;
grant execute on function
  public.bridge_raised_fence(bigint), public.bridge_session_owner(text, text),
  public.bridge_session_fence(text, text, bigint)
to service_role;
