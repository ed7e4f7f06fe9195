"""Migrations on a real Postgres: whichever way a database came to its schema, it is the same one (DESIGN §9)."""

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pytest

from bridge.config import Settings
from bridge.db.command import run_export, run_migrate
from bridge.db.database import Database
from bridge.db.export import export
from bridge.db.migrate import Migration, check, migrate, migrations
from bridge.db.startup import check_clock, prepare_database
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock, SystemClock
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.catalogue import catalogue
from tests.support.databases import make_database, opened

LATEST = migrations()[-1].version


def apply_with_psql(server: PostgresServer, url: str, files: list[str]) -> str:
    """As a person would: each file by itself, in the order of names, every statement committed."""
    assert server._binaries is not None
    said = ""
    for file in sorted(files):
        done = subprocess.run(
            [str(server._binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-"],
            input=Path(file).read_text(),
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": ""},
        )
        assert done.returncode == 0, done.stderr
        said += done.stderr
    return said


async def test_every_way_to_the_schema_leads_to_the_same(postgres: PostgresServer, tmp_path: Path) -> None:
    at_once, stepwise, exported, mixed = [await make_database(postgres) for _ in range(4)]
    files = export(tmp_path)
    async with opened(at_once) as database:
        assert await migrate(database) == migrations()
    for number, each in enumerate(migrations()):  # release after release
        async with opened(stepwise) as database:
            assert await migrate(database, migrations()[: number + 1]) == [each]
    apply_with_psql(postgres, exported, files)
    apply_with_psql(postgres, mixed, files[:2])
    async with opened(mixed) as database:
        assert await migrate(database) == migrations()[2:]
    wanted = await catalogue(at_once)
    assert len(wanted) > 60
    for other in (stepwise, exported, mixed):
        assert await catalogue(other) == wanted


async def test_exported_files_do_nothing_when_the_database_has_them(
    postgres: PostgresServer, empty_database_url: str, tmp_path: Path
) -> None:
    async with opened(empty_database_url) as database:
        await migrate(database)
        before = await catalogue(empty_database_url)
        apply_with_psql(postgres, empty_database_url, export(tmp_path))
        assert await catalogue(empty_database_url) == before
        assert await migrate(database) == []


async def test_exported_files_are_known_when_they_were_applied_elsewhere(
    postgres: PostgresServer, empty_database_url: str, tmp_path: Path
) -> None:
    apply_with_psql(postgres, empty_database_url, export(tmp_path))
    async with opened(empty_database_url) as database:
        assert await check(database) == []
        assert await migrate(database) == []


async def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    databases = [Database(Secret(empty_database_url), size=1) for _ in range(5)]
    for each in databases:
        await each.open()
    applied = await asyncio.gather(*(migrate(each) for each in databases))
    assert sorted(one.version for each in applied for one in each) == [each.version for each in migrations()]
    for each in databases:
        await each.close()


async def test_nothing_of_a_file_stays_when_it_fails_and_the_ones_before_do(empty_database_url: str) -> None:
    broken = Migration(LATEST + 1, "broken", "create table public.half (a int);\nselect nothing_such;", 1)
    async with opened(empty_database_url) as database:
        with pytest.raises(ConfigurationError, match=r"_broken cannot be applied here: .*nothing_such"):
            await migrate(database, [*migrations(), broken])
        assert await database.fetch_value("select to_regclass('public.half')") is None
        assert await check(database) == []
        assert await check(database, [*migrations(), broken]) == [broken]


# ------------------------------------------------------------ one release back, and more


def newer(oldest: int) -> Migration:
    version = LATEST + 1
    return Migration(version, "newer", "create table public.bridge_newer (a int);", oldest)


async def test_this_release_starts_when_the_next_one_has_migrated_and_still_admits_it(database: Database) -> None:
    following = newer(oldest=LATEST)
    assert await migrate(database, [*migrations(), following]) == [following]
    assert await prepare_database(database, SystemClock()) == []
    assert await check(database) == []


async def test_this_release_refuses_to_start_when_the_database_does_not_admit_it_any_more(database: Database) -> None:
    await migrate(database, [*migrations(), newer(oldest=LATEST + 1)])
    for start in (prepare_database(database, SystemClock()), check(database)):
        with pytest.raises(ConfigurationError, match="this version is too old for this database"):
            await start


async def test_a_changed_file_is_refused_when_it_was_applied(database: Database) -> None:
    first, *rest = migrations()
    changed = Migration(first.version, first.name, first.sql + "-- more\n", first.oldest)
    with pytest.raises(ConfigurationError, match="0001_base"):
        await migrate(database, [changed, *rest])


async def test_a_gap_is_refused_when_the_database_was_not_made_in_order(database: Database) -> None:
    await database.execute("delete from public.bridge_migrations where version = 1")
    with pytest.raises(ConfigurationError, match="lacks 0001_base"):
        await migrate(database)


# ------------------------------------------------------------ what stands in the way is one line


async def as_user(owner_url: str, database_url: str, name: str, options: str = "") -> str:
    """A new login role; its address in the database."""
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute(f"create role {name} login password 'user-password' {options}")
    finally:
        await connection.close()
    return f"postgresql://{name}:user-password@{database_url.partition('@')[2]}"


async def test_the_grant_is_named_when_the_user_may_not_make_tables(postgres: PostgresServer) -> None:
    url = await as_user(postgres.url(), await make_database(postgres), "no_tables")
    async with opened(url) as database:
        with pytest.raises(ConfigurationError, match=r"grant usage, create on schema public to no_tables;"):
            await prepare_database(database, SystemClock())


async def test_the_roles_are_named_when_the_user_may_not_make_them(postgres_factory: object) -> None:
    server: PostgresServer = postgres_factory()  # type: ignore[operator]
    own = await make_database(server, "theirs")
    url = await as_user(server.url(), own, "no_roles")
    owner = await asyncpg.connect(own)
    await owner.execute("grant create on schema public to no_roles")
    async with opened(url) as database:
        with pytest.raises(ConfigurationError, match="create role anon nologin; ") as refused:
            await prepare_database(database, SystemClock())
        assert "create role service_role nologin bypassrls;" in str(refused.value)
        assert await database.fetch_value("select count(*) from pg_tables where schemaname = 'public'") == 0
        await owner.execute(str(refused.value).partition("run: ")[2])  # what the line says helps
        assert await prepare_database(database, SystemClock()) == migrations()
    await owner.close()


async def test_rights_are_named_when_somebody_else_made_the_tables(postgres: PostgresServer) -> None:
    target = await make_database(postgres)
    async with opened(target) as database:
        await migrate(database, migrations()[:1])
        await database.execute("grant create on schema public to public")
    url = await as_user(postgres.url(), target, "somebody_else")
    async with opened(url) as database:
        with pytest.raises(ConfigurationError, match="bridge_migrations"):
            await prepare_database(database, SystemClock())


async def test_no_more_than_thirty_seconds_lie_between_the_clocks(database: Database) -> None:
    clock = ManualClock(now_ms=await database.fetch_value("select (extract(epoch from now()) * 1000)::bigint"))
    assert abs(await check_clock(database, clock)) < 20
    for step, which in ((120, "120 s behind|119 s behind"), (-240, "12[01] s ahead of")):
        clock.step_wall(step)
        with pytest.raises(ConfigurationError, match=which):
            await prepare_database(database, clock)


async def test_waiting_for_the_answer_is_no_skew(database: Database) -> None:
    class Slow(ManualClock):
        def now_ms(self) -> int:
            self.step_wall(100)
            return super().now_ms()

    clock = Slow(now_ms=await database.fetch_value("select (extract(epoch from now()) * 1000)::bigint") - 150_000)
    assert await check_clock(database, clock) == 0


async def test_the_reason_is_one_line_when_the_database_cannot_be_reached(postgres: PostgresServer) -> None:
    wrong = {
        "postgresql://u:canary-password@127.0.0.1:1/x": "nothing listens at its address",
        postgres.url("nowhere"): "there is no such database",
        postgres.url().replace("postgres:", "postgres:canary-", 1): "refuses our user or password",
    }
    for url, reason in wrong.items():
        async with opened(url) as database:
            with pytest.raises(ConfigurationError, match=f"^DATABASE_URL: .*{reason}") as refused:
                await prepare_database(database, SystemClock(), wait_s=0.1)
            assert "\n" not in str(refused.value)
            assert "canary" not in str(refused.value)


async def test_a_database_that_starts_a_little_later_is_waited_for(postgres_factory: object) -> None:
    server: PostgresServer = postgres_factory()  # type: ignore[operator]
    server.kill()
    async with opened(server.url()) as database:
        start = asyncio.create_task(prepare_database(database, SystemClock()))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.start)
        assert await start == migrations()


# ------------------------------------------------------------ the command


def settings(url: str | None) -> Settings:
    return Settings(database_url=url) if url else Settings()


async def test_the_command_migrates_says_what_it_did_and_what_is_missing(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_migrate(settings(empty_database_url), only_check=True) == 1
    assert "lacks 0001_base" in capsys.readouterr().out
    assert await run_migrate(settings(empty_database_url)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [*(f"applied {each}" for each in migrations()), "the database is up to date"]
    assert await run_migrate(settings(empty_database_url)) == 0
    assert await run_migrate(settings(empty_database_url), only_check=True) == 0
    assert capsys.readouterr().out == "the database is up to date\n" * 2
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await run_migrate(settings(None))


def test_the_command_exports_without_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_export(str(tmp_path / "new")) == 0
    said = capsys.readouterr().out
    assert all(str(path) in said for path in (tmp_path / "new").iterdir())
