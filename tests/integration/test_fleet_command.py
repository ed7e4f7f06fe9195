"""`fleet`, `sessions move` and `drain` from the command line, as an operator sees them."""

import base64
import json
from pathlib import Path

import pytest

from bridge.db.database import Database
from bridge.sessions.durable import DurableSessions
from bridge.sessions.ownership.fleet_table import FleetTable
from tests.support.fleet_place import A, B, Place, key
from tests.support.processes import bridge_process

KEYS = "k1:" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
async def place(database: Database) -> Place:
    found = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
    await found.join(A, B)
    await found.start("u", "v", owner=A)
    await found.look(A)
    return found


async def run(url: str, *arguments: str) -> tuple[int, list[str]]:
    env = {"DATABASE_URL": url, "TOKEN_ENCRYPTION_KEYS": KEYS}
    async with bridge_process(*arguments, env=env) as process:
        code = await process.ended(within_s=30)
        return code, [*process.stdout, *process.stderr]


async def test_fleet_shows_processes_shares_and_leases(place: Place, database_url: str) -> None:
    code, lines = await run(database_url, "fleet")
    assert code == 0
    heads, *rows, last = lines
    assert heads.split()[:4] == ["process", "version", "share", "serves"]
    assert {row.split()[0]: row.split()[2:5] for row in rows} == {A: ["1", "2", "1000"], B: ["1", "0", "1000"]}
    assert "1 live" in next(row for row in rows if row.startswith(A))
    assert last == "2 sessions, 0 of them served by nobody"
    await place.start("w")
    code, lines = await run(database_url, "fleet", "--json")
    shown = json.loads("\n".join(lines))
    assert (code, shown["total"], shown["unowned"]) == (1, 3, 1)
    assert {row["owner"]: (row["load"], row["share"], row["here"]) for row in shown["processes"]} == {
        A: (2, 2, False),
        B: (0, 2, False),
    }


async def test_sessions_of_a_process_that_fell_silent_count_as_served_by_nobody(
    place: Place, database: Database, database_url: str
) -> None:
    """Nobody else may be there who would notice."""
    await database.execute("update public.bridge_processes set expires_at = clock_timestamp() where owner = $1", A)
    code, lines = await run(database_url, "fleet")
    assert (code, lines[-1]) == (1, "2 sessions, 2 of them served by nobody")
    assert " ended " in next(row for row in lines if row.startswith(A))
    await database.execute("delete from public.bridge_processes")
    code, lines = await run(database_url, "fleet")
    assert (code, lines[1:]) == (1, ["no process has a lease", "2 sessions, 2 of them served by nobody"])


async def test_session_is_moved_and_a_process_drained_and_both_are_audited(
    place: Place, database: Database, database_url: str
) -> None:
    code, lines = await run(database_url, "sessions", "move", key("u")[:12], "--to", "bb")
    assert (code, lines) == (0, [f"sim acc-u: moves to {B}"])
    assert (await place.row("u")).move_to == B
    code, lines = await run(database_url, "sessions", "move", key("u"), "--to", A, "--broker", "sim")
    assert (code, lines) == (0, [f"sim acc-u: is at {A} and stays"])
    code, lines = await run(database_url, "drain", "aaaa")
    assert (code, lines) == (0, [f"{A} gives its sessions up; see `python -m bridge fleet`"])
    code, lines = await run(database_url, "drain", "aaaa", "--undo")
    assert (code, lines) == (0, [f"{A} takes sessions again"])
    rows = await database.fetch("select action, actor from public.bridge_audit order by seq")
    assert [(row["action"], row["actor"]) for row in rows] == [
        *[("move", "operator")] * 2,
        *[("drain", "operator")] * 2,
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sessions", "move", "0" * 12), "no user has this key"),
        (("sessions", "move", "short"), "a user key has 64 hex digits"),
        (("drain", "cc"), "no such process"),
        (("drain", "xyz"), "hex digits"),
    ],
)
async def test_what_cannot_be_done_is_one_line(place: Place, database_url: str, arguments: tuple[str, ...], says: str):
    code, lines = await run(database_url, *arguments)
    assert code == 1
    assert len(lines) == 1
    assert says in lines[0]


async def test_last_process_is_not_drained(place: Place, database_url: str) -> None:
    await place.fleet.leave(B)
    code, lines = await run(database_url, "drain", A)
    assert (code, lines) == (1, ["error: no other process would take the sessions over; start one first"])


async def test_without_a_database_there_is_no_fleet(tmp_path: Path) -> None:
    async with bridge_process("fleet", env={}) as process:
        assert await process.ended(within_s=30) == 2
        assert "DATABASE_URL" in "\n".join([*process.stdout, *process.stderr])
