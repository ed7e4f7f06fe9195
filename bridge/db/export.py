"""The migrations as files that Supabase applies (`supabase db push`), or psql: for who keeps all schema in one place.

Each file is one statement that does the whole migration, or nothing when the database has it already, and records it:
`migrate` finds it applied, and a database that `migrate` brought up to date passes over the files. The names never
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bridge.db.migrate import BOOK_EXISTS, LOCK, Migration, migrations
from core.errors import ConfigurationError

_EPOCH = 20250101  # the names' day; the time of day is the number of the migration
_FILE = """\
-- Pulse Bridge, migration {migration}: made by `python -m bridge migrate --export`; not to be edited.
-- Does nothing in a database that has it already.
do $pulse_bridge$
begin
  perform pg_catalog.pg_advisory_xact_lock({lock});
  if {book_exists} then
    if exists (select from public.bridge_migrations where version = {version}) then
      return;
    end if;
  end if;
  execute $pulse_bridge_migration$
{sql}$pulse_bridge_migration$;
  insert into public.bridge_migrations (version, name, checksum, oldest)
  values ({version}, '{name}', '{checksum}', {oldest});
end
$pulse_bridge$;
"""


def file_name(migration: Migration) -> str:
    """`<14 digits>_pulse_bridge_<name>.sql`; the digits are the same for ever."""
    minutes, seconds = divmod(migration.version, 60)
    return f"{_EPOCH}{minutes // 60:02}{minutes % 60:02}{seconds:02}_pulse_bridge_{migration.name}.sql"


def file_text(migration: Migration) -> str:
    """The migration as one statement."""
    if "$pulse_bridge" in migration.sql:
        raise ConfigurationError(f"migration {migration} cannot be exported: it holds the export's own quotation marks")
    return _FILE.format(
        migration=migration,
        lock=LOCK,
        book_exists=BOOK_EXISTS,
        version=migration.version,
        sql=migration.sql,
        name=migration.name,
        checksum=migration.checksum,
        oldest=migration.oldest,
    )


def export(folder: str | Path, known: Sequence[Migration] | None = None) -> list[str]:
    """Write the files into `folder`, which is made when it is missing; returns their paths in order.

    Raises ConfigurationError when the folder cannot be written.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in migrations() if known is None else known:
            path = folder / file_name(each)
            path.write_text(file_text(each), encoding="utf-8")
            written.append(str(path))
    except OSError as error:
        raise ConfigurationError(f"--export: the folder cannot be written: {error.strerror}") from error
    return written
