"""The audit log on a real Postgres: one chain of many processes, nothing lost or doubled, every edit found."""

import asyncio
import base64
import logging
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from bridge.audit.chain import ChainBroken, Sealer, Verifier
from bridge.audit.command import follow, run_tail, run_verify
from bridge.audit.entries import make_entry
from bridge.audit.log import BACKLOG, AuditLog, LoggedAudit
from bridge.audit.table import Pending, append
from bridge.config import Settings
from bridge.config_values import TokenKey
from bridge.db.database import Connection, Database, DatabaseUnavailable
from bridge.db.users import ensure_user, find_user, forget_user
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import SystemClock
from bridge.telemetry.audit import Action
from core.errors import ConfigurationError, InvalidInput
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.databases import make_database, migrate_database
from tests.support.processes import bridge_process
from tests.support.waiting import eventually

ANN = UserKeyScheme().keys("ann@example.com").canonical
WRITER = "tests.support.audit_writer"
KEYS = [TokenKey("k1", Secret(base64.b64encode(b"1" * 32).decode()))]
ROWS = "select seq, id, actor, action, subject, outcome, detail::text as detail, request_id from public.bridge_audit"


@asynccontextmanager
async def audit_log(
    database: Database, *, sealer: Sealer | None = None, queue: int = 10_000
) -> AsyncIterator[AuditLog]:
    log = AuditLog(database, clock=SystemClock(), rng=random.Random(), sealer=sealer, queue=queue)
    log.start()
    try:
        yield log
    finally:
        await log.close(5.0)


async def fill(database: Database, count: int = 8, *, sealer: Sealer | None = None) -> None:
    async with audit_log(database, sealer=sealer) as log:
        for number in range(count):
            log.record(Action.START, user_key=None, actor="user", detail={"n": number})
        assert await log.flush(10)


async def verified(database: Database, sealer: Sealer | None = None) -> Verifier:
    verifier = Verifier(sealer or Sealer())
    await follow(database, verifier)
    return verifier


async def as_superuser(url: str, *statements: str) -> None:
    """What nobody may do: with the triggers out of the way."""
    connection = await asyncpg.connect(url)
    try:
        for table in ("bridge_audit", "bridge_audit_head"):
            await connection.execute(f"alter table public.{table} disable trigger all")
        for statement in statements:
            await connection.execute(statement)
        for table in ("bridge_audit", "bridge_audit_head"):
            await connection.execute(f"alter table public.{table} enable always trigger append_only")
        await connection.execute("alter table public.bridge_audit enable always trigger advance")
    finally:
        await connection.close()


def settings_of(url: str, **more: str) -> Settings:
    return Settings(database_url=url, _env_file=None, **more)  # type: ignore[arg-type]


# ------------------------------------------------------------ what is written


async def test_actions_become_rows_that_name_users_by_audit_id_only(database: Database) -> None:
    async with database.transaction() as connection:
        await ensure_user(connection, ANN, "ann@example.com")
    async with audit_log(database) as log:
        detail = {"broker": "b", "request_id": "r1"}
        log.record(Action.START, user_key=ANN, actor="user", detail=detail)
        log.record(Action.REFUSED, user_key="0" * 64, actor="ip", outcome="no_such_user")
        log.record(Action.KEY_USE, user_key=None, actor="key:app1")
        assert await log.flush(10)
        assert log.metrics() == {"written": 3, "dropped": 0, "waiting": 0, "failures": 0}
    rows = await database.fetch(f"{ROWS} order by seq")
    ann = await find_user(database, ANN)
    assert ann is not None
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert [str(row["subject"] or "") for row in rows] == [ann.audit_id, "", ""]
    assert (rows[0]["request_id"], rows[0]["detail"]) == ("r1", '{"broker":"b"}')
    assert rows[1]["outcome"] == "no_such_user"
    everything = str(await database.fetch("select a::text from public.bridge_audit a"))
    assert ANN[:12] not in everything
    assert "example" not in everything
    assert (await verified(database)).rows == 3


async def test_a_late_entry_names_nobody_when_the_user_was_erased(database: Database) -> None:
    async with database.transaction() as connection:
        await ensure_user(connection, ANN, "ann@example.com")
        await forget_user(connection, ANN)
    async with audit_log(database) as log:
        log.record(Action.STOP, user_key=ANN, actor="user")
        assert await log.flush(10)
    assert await database.fetch_value("select subject from public.bridge_audit") is None


async def test_several_processes_make_one_chain(database: Database, database_url: str) -> None:
    names, count = ("one", "two", "three"), 120

    async def run(name: str) -> None:
        async with bridge_process(database_url, name, str(count), "4", module=WRITER) as process:
            assert await process.ended(within_s=60) == 0, process.output

    await asyncio.gather(*map(run, names))
    assert (await verified(database)).rows == count * len(names)
    for name in names:
        rows = await database.fetch(f"{ROWS} where actor = $1 order by seq", f"key:{name}")
        assert [row["detail"] for row in rows] == [f'{{"n":{n}}}' for n in range(count)], "in its own order"


async def test_what_was_written_stays_and_the_chain_is_whole_when_writers_are_killed(
    database: Database, database_url: str
) -> None:
    async with bridge_process(database_url, "steady", "60", "3", module=WRITER) as steady:
        for number in range(3):
            async with bridge_process(database_url, f"killed{number}", "100000", "2", module=WRITER) as process:
                await process.line(lambda line: line.isdigit() and int(line) >= 20)
                process.send(9)
                await process.ended()
                told = max(int(line) for line in process.stdout if line.isdigit())
            rows = await database.fetch(f"{ROWS} where actor = $1 order by seq", f"key:killed{number}")
            assert len(rows) >= told
            assert [row["detail"] for row in rows] == [f'{{"n":{n}}}' for n in range(len(rows))]
        assert await steady.ended(within_s=60) == 0, steady.output
    await verified(database)
    assert await database.fetch_value("select count(*) from public.bridge_audit where actor = 'key:steady'") == 60


# ------------------------------------------------------------ trouble


class LosesCommits(Database):
    """Commits, and then says that the connection was cut."""

    losses = 0

    @asynccontextmanager
    async def transaction(self, **limits: float) -> AsyncIterator[Connection]:  # type: ignore[override]
        async with super().transaction(**limits) as connection:
            yield connection
        if self.losses:
            self.losses -= 1
            raise DatabaseUnavailable("the connection was cut")


async def test_an_entry_is_in_the_log_once_when_the_answer_to_a_commit_is_lost(database_url: str) -> None:
    database = LosesCommits(Secret(database_url))
    await database.open()
    try:
        database.losses = 2
        async with audit_log(database) as log:
            for number in range(5):
                log.record(Action.START, user_key=None, actor="user", detail={"n": number})
            assert await log.flush(20)
            assert log.metrics()["failures"] == 2
        assert (await verified(database)).rows == 5
    finally:
        await database.close()


async def test_entries_wait_while_the_database_is_away_and_those_that_do_not_fit_are_told(
    postgres_factory: Callable[[], PostgresServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(postgres_factory)
    url = await make_database(server)
    await migrate_database(url)
    database = Database(Secret(url))
    await database.open()
    try:
        async with audit_log(database, queue=10) as log:
            log.record(Action.START, user_key=None, actor="user", detail={"n": -1})
            assert await log.flush(10)
            await asyncio.to_thread(server.kill)
            for number in range(13):
                log.record(Action.START, user_key=None, actor="user", detail={"n": number})
            await eventually(lambda: log.metrics()["failures"], within_s=20)
            assert not await log.flush(0)
            await asyncio.to_thread(server.start)
            assert await log.flush(60)
            log.record(Action.STOP, user_key=None, actor="user")
            assert await log.flush(60)
            assert (log.metrics()["written"], log.metrics()["dropped"]) == (12, 3)
        rows = await database.fetch(f"{ROWS} order by seq")
        assert [row["detail"] for row in rows][1:-1] == [f'{{"n":{n}}}' for n in range(10)]
        assert rows[-1]["detail"] == '{"dropped_before":3}'
        assert (await verified(database)).rows == 12
        assert sum("entries wait" in each.message for each in caplog.records) == 1, "said once"
    finally:
        await database.close()


async def test_what_cannot_be_written_by_the_end_is_left_in_the_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    nobody = Database(Secret("postgresql://127.0.0.1:1/nothing"))
    await nobody.open()
    with caplog.at_level(logging.INFO):
        async with audit_log(nobody) as log:
            log.record(Action.STOP, user_key=ANN, actor="user", detail={"broker": "b"})
            await eventually(lambda: log.metrics()["failures"], within_s=20)
            await log.close(0.1)
            log.record(Action.START, user_key=ANN, actor="user")
    await nobody.close()
    line = next(each for each in caplog.records if each.message == "audit")
    assert (line.action, line.user, line.outcome) == ("stop", ANN[:12], "ok")  # type: ignore[attr-defined]
    assert log.metrics()["dropped"] == 2


async def test_somebody_is_told_when_many_entries_wait(database: Database) -> None:
    log = AuditLog(database, clock=SystemClock(), rng=random.Random(1))  # nobody writes yet
    for _ in range(BACKLOG - 1):
        log.record(Action.START, user_key=None, actor="user")
    assert log.trouble() is None
    log.record(Action.START, user_key=None, actor="user")
    assert log.trouble() == "the audit log does not keep up: 1000 entries wait, 0 were dropped"
    log.start()
    assert await log.flush(20)
    assert log.trouble() is None
    await log.close()


def test_actions_are_log_lines_when_there_is_no_database(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LoggedAudit().record(Action.START, user_key=ANN, actor="key:a", detail={"broker": "b"})
    line = caplog.records[-1]
    assert (line.action, line.user, line.actor, line.detail) == ("start", ANN[:12], "key:a", {"broker": "b"})  # type: ignore[attr-defined]


# ------------------------------------------------------------ edits


@pytest.mark.parametrize(
    "statement",
    [
        "update public.bridge_audit set outcome = 'x'",
        "update public.bridge_audit set outcome = 'x' where false",
        "delete from public.bridge_audit where seq = 2",
        "truncate public.bridge_audit",
        "delete from public.bridge_audit_head",
        "truncate public.bridge_audit_head",
        "set local session_replication_role = replica; delete from public.bridge_audit where seq = 2",
        "insert into public.bridge_audit select seq + 1, gen_random_uuid(), at, actor, action, subject, outcome,"
        " detail, request_id, prev_hash, hash from public.bridge_audit where seq = 8",
        "insert into public.bridge_audit select seq + 2, gen_random_uuid(), at, actor, action, subject, outcome,"
        " detail, request_id, hash, hash from public.bridge_audit where seq = 8",
    ],
)
async def test_the_owner_of_the_table_may_not_change_it_either(
    database: Database, database_url: str, statement: str
) -> None:
    await fill(database)
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.IntegrityConstraintViolationError)):
            async with connection.transaction():
                await connection.execute(statement)
    finally:
        await connection.close()
    assert (await verified(database)).rows == 8


@pytest.mark.parametrize("role", ["service_role", "authenticated", "anon"])
async def test_roles_may_do_what_they_must(database: Database, role: str) -> None:
    rights = """
select p from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p where has_table_privilege($1, $2, p)
"""
    may = {
        table: {row["p"] for row in await database.fetch(rights, role, table)}
        for table in ("bridge_audit", "bridge_audit_head")
    }
    service = role == "service_role"
    assert may["bridge_audit"] == ({"select", "insert"} if service else set())
    assert may["bridge_audit_head"] == ({"select"} if service else set())


async def test_the_service_role_can_append(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("set local role service_role")
        entry = make_entry(random.Random(), 5, "start", "user", "ok", {})
        await append(connection, [Pending(entry)], Sealer())
    assert (await verified(database)).rows == 1


@pytest.mark.parametrize(
    ("broken", "statements"),
    [
        (3, ["update public.bridge_audit set outcome = 'refused' where seq = 3"]),
        (3, ["update public.bridge_audit set at = at + interval '1 microsecond' where seq = 3"]),
        (3, ["""update public.bridge_audit set detail = '{"n": 2}' where seq = 3"""]),
        (3, ["update public.bridge_audit set subject = gen_random_uuid() where seq = 3"]),
        (3, ["delete from public.bridge_audit where seq = 3"]),
        (1, ["delete from public.bridge_audit where seq <= 3"]),
        (8, ["delete from public.bridge_audit where seq = 8"]),
        (1, ["truncate public.bridge_audit"]),
        (1, ["delete from public.bridge_audit_head", "truncate public.bridge_audit"]),
        (1, ["delete from public.bridge_audit_head"]),
        (8, ["update public.bridge_audit_head set seq = 7"]),
        (
            1,
            [
                "alter table public.bridge_audit drop constraint bridge_audit_seq_check",
                "insert into public.bridge_audit select 0, gen_random_uuid(), at, actor, action, subject, outcome,"
                " detail, request_id, prev_hash, hash from public.bridge_audit where seq = 1",
            ],
        ),
        (
            4,
            [
                "update public.bridge_audit set seq = 100 where seq = 4",
                "update public.bridge_audit set seq = 4 where seq = 5",
                "update public.bridge_audit set seq = 5 where seq = 100",
            ],
        ),
        (
            4,
            [  # a row in between, the others moved up
                "update public.bridge_audit set seq = seq + 100 where seq >= 4",
                "update public.bridge_audit set seq = seq - 99 where seq >= 104",
                "insert into public.bridge_audit select 4, gen_random_uuid(), at, actor, action, subject, outcome,"
                " detail, request_id, hash, hash from public.bridge_audit where seq = 3",
                "update public.bridge_audit_head set seq = 9",
            ],
        ),
        (9, ["insert into public.bridge_audit select 10, gen_random_uuid(), at, actor, action, subject, outcome,"
             " detail, request_id, hash, hash from public.bridge_audit where seq = 8"]),
    ],
)  # fmt: skip
async def test_every_edit_is_found_where_it_is_when_the_triggers_were_out_of_the_way(
    database: Database, database_url: str, broken: int, statements: list[str]
) -> None:
    await fill(database)
    assert (await verified(database)).rows == 8
    await as_superuser(database_url, *statements)
    with pytest.raises(ChainBroken) as found:
        await verified(database)
    assert found.value.seq == broken


async def test_a_writer_notices_that_the_end_was_cut_off_with_its_head(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with audit_log(database) as log:
        for number in range(4):
            log.record(Action.START, user_key=None, actor="user", detail={"n": number})
            assert await log.flush(10)
        await as_superuser(
            database_url,
            "delete from public.bridge_audit where seq > 2",
            "update public.bridge_audit_head h set seq = 2, hash = a.hash from public.bridge_audit a where a.seq = 2",
        )
        assert (await verified(database)).rows == 2, "nothing in the database tells"
        log.record(Action.START, user_key=None, actor="user")
        assert await log.flush(10)
    assert any("CUT OFF" in each.message for each in caplog.records)


# ------------------------------------------------------------ the commands


async def test_verify_counts_and_names_the_first_broken_row(
    database: Database, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(database_url, token_encryption_keys=f"k1:{KEYS[0].key.reveal()}")
    assert await run_verify(settings) == 0
    await fill(database, 2100, sealer=Sealer(KEYS))
    capsys.readouterr()
    assert await run_verify(settings) == 0
    said = capsys.readouterr().out
    assert "2100 rows" in said
    assert "sealed: 2100" in said
    head = re.search(r"head: (\d+:[0-9a-f]{64})", said)
    assert head is not None
    assert await run_verify(settings, expect=head[1]) == 0
    await fill(database, 10, sealer=Sealer(KEYS))
    assert await run_verify(settings, expect=head[1]) == 0
    assert await run_verify(settings, start=head[1]) == 0
    await as_superuser(database_url, "update public.bridge_audit set actor = 'nobody' where seq = 1500")
    capsys.readouterr()
    assert await run_verify(settings) == 1
    assert "BROKEN at row 1500" in capsys.readouterr().out


async def test_verify_finds_a_log_that_was_computed_anew_when_it_was_sealed(
    database: Database, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(database_url, token_encryption_keys=f"k1:{KEYS[0].key.reveal()}")
    await fill(database, 3, sealer=Sealer(KEYS))
    await fill(database, 1)  # by somebody who may insert, and has no key
    assert await run_verify(settings) == 1
    assert "no seal" in capsys.readouterr().out


async def test_verify_says_how_to_go_on_when_old_rows_were_removed_on_purpose(
    database: Database, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(database_url)
    await fill(database)
    await as_superuser(database_url, "delete from public.bridge_audit where seq <= 5")
    assert await run_verify(settings) == 1
    told = re.search(r"follows (5:[0-9a-f]{64})", capsys.readouterr().out)
    assert told is not None
    assert await run_verify(settings, start=told[1]) == 0


async def test_tail_prints_the_last_rows(
    database: Database, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(database)
    assert await run_tail(settings_of(database_url), limit=2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["7", "8"]
    assert lines[-1].endswith("n=7")


async def test_commands_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await run_verify(Settings(_env_file=None))  # type: ignore[call-arg]
    with pytest.raises(InvalidInput):
        await run_verify(Settings(_env_file=None), expect="5")  # type: ignore[call-arg]
