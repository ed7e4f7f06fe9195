"""Everything that a migration can make in a database, as lines of text that can be compared.

Invariant: two databases with the same lines behave the same to the bridge and to every role.
"""

import asyncpg

# what extensions brought is theirs
_QUERIES = {
    "role": """
select rolname || ' bypassrls=' || rolbypassrls || ' login=' || rolcanlogin from pg_roles
where rolname in ('anon', 'authenticated', 'service_role')""",
    "relation": """
select c.relkind::text || ' ' || c.relname || ' persistence=' || c.relpersistence::text || ' rls=' || c.relrowsecurity
  || ' forced=' || c.relforcerowsecurity || ' owner=' || pg_get_userbyid(c.relowner)
  || ' options=' || coalesce(array_to_string(c.reloptions, ','), '')
from pg_class c where c.relnamespace = 'public'::regnamespace""",
    "column": """
select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' notnull=' || a.attnotnull
  || ' default=' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' generated=' || a.attgenerated::text
  || a.attidentity::text || ' collation=' || a.attcollation::regcollation::text || ' number=' || a.attnum
from pg_attribute a join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped""",
    "constraint": """
select conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
where connamespace = 'public'::regnamespace""",
    "index": "select indexdef from pg_indexes where schemaname = 'public'",
    "policy": """
select tablename || ' ' || policyname || ' ' || permissive || ' ' || roles::text || ' ' || cmd
  || ' using ' || coalesce(qual, '') || ' check ' || coalesce(with_check, '')
from pg_policies where schemaname = 'public'""",
    "trigger": """
select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'public'::regnamespace and not t.tgisinternal""",
    "function": """
select pg_get_functiondef(oid) || ' owner=' || pg_get_userbyid(proowner) from pg_proc
where pronamespace = 'public'::regnamespace and prokind in ('f', 'p')""",
    "type": """
select typname || ' ' || typtype::text || ' ' || coalesce((select string_agg(enumlabel, ',' order by enumsortorder)
  from pg_enum where enumtypid = t.oid), '') from pg_type t where typnamespace = 'public'::regnamespace""",
    "comment": """
select objoid::regclass::text || ' ' || objsubid || ' ' || description from pg_description
where classoid = 'pg_class'::regclass
  and objoid in (select oid from pg_class where relnamespace = 'public'::regnamespace)""",
    "fact": "select name || '=' || value from public.bridge_facts where name <> 'database_id'",
    "migration": "select version || ' ' || name || ' ' || checksum || ' ' || oldest from public.bridge_migrations",
}
# what each role may do in the end, whether granted, inherited or by default
_RIGHTS = """
with role(name) as (values ('anon'), ('authenticated'), ('service_role'))
select 'right ' || r.name || ' ' || p.privilege || ' on ' || c.relname
from role r, pg_class c,
  unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p(privilege)
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'm', 'p', 'f')
  and has_table_privilege(r.name, c.oid, p.privilege)
union all
select 'right ' || r.name || ' ' || p.privilege || ' on ' || c.relname || '.' || a.attname
from role r, pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped,
  unnest(array['select', 'insert', 'update', 'references']) p(privilege)
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'm', 'p', 'f')
  and has_column_privilege(r.name, c.oid, a.attnum, p.privilege)
union all
select 'right ' || r.name || ' ' || p.privilege || ' on sequence ' || c.relname
from role r, pg_class c, unnest(array['usage', 'select', 'update']) p(privilege)
where c.relnamespace = 'public'::regnamespace and c.relkind = 'S' and has_sequence_privilege(r.name, c.oid, p.privilege)
union all
select 'right ' || r.name || ' execute on ' || f.oid::regprocedure::text
from role r, pg_proc f
where f.pronamespace = 'public'::regnamespace and has_function_privilege(r.name, f.oid, 'execute')
"""


async def catalogue(url: str) -> list[str]:
    """All lines of the database at `url`, sorted."""
    connection = await asyncpg.connect(url)
    try:
        lines = [row[0] for row in await connection.fetch(_RIGHTS)]
        for kind, query in _QUERIES.items():
            lines += [f"{kind} {row[0]}" for row in await connection.fetch(query)]
    finally:
        await connection.close()
    return sorted(lines)


async def rights(url: str) -> list[str]:
    """What each role may do, sorted."""
    return [line for line in await catalogue(url) if line.startswith("right ")]
