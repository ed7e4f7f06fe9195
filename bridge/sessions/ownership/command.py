"""`python -m bridge fleet`, `sessions move` and `drain`: the fleet from the command line, in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import orjson

from bridge.db.database import Database
from bridge.db.users import find_user
from bridge.sessions.ownership.desk import FleetDesk
from bridge.sessions.ownership.fleet_table import FleetTable
from bridge.sessions.views import FleetProcess, FleetView
from bridge.telemetry.audit import Audit
from core.errors import ConfigurationError, InvalidInput, NotFound
from core.secret import Secret

OPERATOR = "operator"
HEADS = ("process", "version", "share", "serves", "capacity", "lease left", "age", "state", "sessions")


@asynccontextmanager
async def fleet_of(url: Secret | None, audit: Audit) -> AsyncIterator[tuple[Database, FleetDesk]]:
    """The fleet on a database. Raises ConfigurationError without one."""
    if url is None:
        raise ConfigurationError("DATABASE_URL: is not set, and without a database there is one process only")
    database = Database(url, size=1, name="pulse-bridge fleet")
    await database.open()
    try:
        yield database, FleetDesk(FleetTable(database), audit)
    finally:
        await database.close()


async def run_fleet(
    url: Secret | None, audit: Audit, *, as_json: Callable[[FleetView], Mapping[str, object]] | None = None
) -> int:
    """Print all processes, as a table or as JSON; 1 when sessions are served by nobody."""
    async with fleet_of(url, audit) as (_, desk):
        view = await desk.view()
    if as_json is not None:
        print(orjson.dumps(as_json(view), option=orjson.OPT_INDENT_2).decode())
    else:
        for line in table(view):
            print(line)
    return 1 if view.unowned else 0


async def run_move(
    url: Secret | None, audit: Audit, key: str, *, broker: str | None, account_id: str | None, to: str | None
) -> int:
    """Want the sessions of a user elsewhere."""
    async with fleet_of(url, audit) as (database, desk):
        user = await find_user(database, key.lower())
        if user is None:
            raise NotFound("no user has this key")
        moving = await desk.move(user.user_key, broker=broker, account_id=account_id, to=_name(to), actor=OPERATOR)
    for each in moving:
        where = f"moves to {each.move_to}" if each.move_to else f"is at {each.owner} and stays"
        print(f"{each.broker} {each.account_id or '(account not known yet)'}: {where}")
    return 0


async def run_drain(url: Secret | None, audit: Audit, owner: str, *, undo: bool) -> int:
    """Let a process give everything up, or take sessions again."""
    async with fleet_of(url, audit) as (_, desk):
        name = await desk.drain(_name(owner) or "", draining=not undo, actor=OPERATOR)
    print(f"{name} takes sessions again" if undo else f"{name} gives its sessions up; see `python -m bridge fleet`")
    return 0


def table(view: FleetView) -> list[str]:
    """The fleet as a person reads it."""
    rows = [HEADS, *(_row(process) for process in view.processes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    none = [] if view.processes else ["no process has a lease"]
    return [*lines, *none, f"{view.total} sessions, {view.unowned} of them served by nobody"]


def _row(process: FleetProcess) -> Sequence[str]:
    statuses = ", ".join(f"{number} {status}" for status, number in sorted(process.sessions.items()))
    return (
        process.owner,
        process.version,
        str(process.share),
        str(process.load),
        str(process.capacity),
        f"{max(0, process.lease_left_ms) / 1000:.1f} s",
        _age(max(0, process.renewed_at - process.started_at) // 1000),
        "ended" if process.lease_left_ms <= 0 else "draining" if process.draining else "serving",
        statuses or "-",
    )


def _age(seconds: int) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    return f"{seconds} s" if not minutes else f"{minutes} min" if hours < 2 else f"{hours} h"


def _name(text: str | None) -> str | None:
    if text is not None and not (text and set(text.lower()) <= set("0123456789abcdef")):
        raise InvalidInput(
            "a process is named by the hex digits that `python -m bridge fleet` shows, or the first ones"
        )
    return None if text is None else text.lower()
