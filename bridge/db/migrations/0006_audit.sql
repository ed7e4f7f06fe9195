-- The audit log: what was done, by whom and about whom, in rows that are only ever added, each chained to the one before.
-- oldest: 1

-- `subject` is bridge_users.audit_id: with that row erased it names nobody. `id` is made by whoever records, so that an
-- append of unknown outcome can be repeated. `hash` covers the row and `prev_hash`; `seal` is a keyed hash of `hash`
-- (bridge/audit/chain.py). `detail` is kept as text: the hash covers every byte.
create table public.bridge_audit (
  seq bigint primary key check (seq > 0),
  id uuid not null unique,
  at timestamptz not null,
  actor text not null,
  action text not null,
  subject uuid,
  outcome text not null,
  detail json not null,
  request_id text,
  prev_hash bytea not null check (octet_length(prev_hash) = 32),
  hash bytea not null check (octet_length(hash) = 32),
  seal_key_id text,
  seal bytea check (octet_length(seal) = 32),
  check ((seal is null) = (seal_key_id is null))
);
create index bridge_audit_subject on public.bridge_audit (subject, seq) where subject is not null;
alter table public.bridge_audit enable row level security;
revoke all on public.bridge_audit from public, anon, authenticated, service_role;
grant select, insert on public.bridge_audit to service_role;

-- The last row of the chain, so that a tail that was cut off is missed. Moved on by the trigger below and by nobody else.
create table public.bridge_audit_head (
  one boolean primary key default true check (one),
  seq bigint not null,
  hash bytea not null check (octet_length(hash) = 32)
);
alter table public.bridge_audit_head enable row level security;
revoke all on public.bridge_audit_head from public, anon, authenticated, service_role;
grant select on public.bridge_audit_head to service_role;
insert into public.bridge_audit_head (seq, hash) values (0, decode(repeat('00', 32), 'hex'));

-- Rows join at the end of the chain or not at all, whoever inserts them.
create function public.bridge_audit_advance() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  head public.bridge_audit_head;
  joined boolean;
  last_seq bigint;
  last_hash bytea;
begin
  select h.* into head from public.bridge_audit_head h for update;
  select bool_and(a.seq = head.seq + a.place and a.prev_hash = coalesce(a.hash_before, head.hash)), max(a.seq),
    (array_agg(a.hash order by a.seq desc))[1]
  into joined, last_seq, last_hash
  from (
    select n.seq, n.prev_hash, n.hash, row_number() over (order by n.seq) as place,
      lag(n.hash) over (order by n.seq) as hash_before
    from added n
  ) a;
  if last_seq is null then
    return null;  -- nothing was added
  end if;
  if joined is not true then
    raise exception 'rows do not join the end of the audit log' using errcode = 'integrity_constraint_violation';
  end if;
  update public.bridge_audit_head set seq = last_seq, hash = last_hash;
  return null;
end
$$;
create trigger advance after insert on public.bridge_audit
  referencing new table as added for each statement execute function public.bridge_audit_advance();
alter table public.bridge_audit enable always trigger advance;

-- Nobody changes or removes rows, the owner of the table neither. Rows that must go (a retention rule) take somebody who
-- may alter the table: alter table … disable trigger append_only, delete, enable it again; `audit verify` then names the
-- first row that is left, and tells the rest with --from.
create function public.bridge_audit_refuse() returns trigger
language plpgsql set search_path = ''
as $$
begin
  raise exception 'the audit log is append-only' using errcode = 'insufficient_privilege';
end
$$;
create trigger append_only before update or delete or truncate on public.bridge_audit
  for each statement execute function public.bridge_audit_refuse();
alter table public.bridge_audit enable always trigger append_only;
create trigger append_only before insert or delete or truncate on public.bridge_audit_head
  for each statement execute function public.bridge_audit_refuse();
alter table public.bridge_audit_head enable always trigger append_only;

revoke all on function public.bridge_audit_advance(), public.bridge_audit_refuse()
  from public, anon, authenticated, service_role;
