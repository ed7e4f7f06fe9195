"""A kill drill: many live sessions, trading, starts and stops; `kill -9`; another start; a comparison with the truth.

Postgres is the primary store, Valkey its copy, and credentials are in the vault. Used by the test suite at ten times
the broker's rate and by `scripts/storm --kill` at the real one. Everything is measured through the doors that users
have. Raises AssertionError with what differed.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.support.processes import bridge_process
from tests.support.storm import differences, seed_positions, trade
from tests.support.vaulted import VAULT_ENV, enter_credentials
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, record_key, running_world

TO_LIVE, FOR_PRICES = (
    3,
    1,
)  # requests of a login: authorise, trader, reconcile; one subscription when it holds something
NOTED_WITHIN_S = 15.0  # what is at risk is stored every few seconds
LISTING = "ProtoOAGetAccountListByAccessTokenReq"
COMMANDS_PER_S = 25  # starts and stops, at most
TRADES_PER_S = 100
LEASE_S = 15.0  # LEASE_TTL as it is by default: a killed process keeps its sessions for so long
DRAIN_S = 2.5  # DRAIN_SECONDS as it is by default


@dataclass(slots=True)
class KillReport:
    """What was seen; seconds."""

    users: int
    wanted: int
    at_risk: int
    live_after_start_s: float
    back_live_s: float
    back_live_limit_s: float
    equal_after_s: float
    commands: int
    drained_s: float
    requests: Counter[str]


@asynccontextmanager
async def drill_world(
    folder: Path, database_url: str, *, users: int, requests_per_second: int, lease_s: float = LEASE_S
) -> AsyncIterator[World]:
    """A world whose credentials are in the vault, entered through the API, and in no file."""
    env = {"DATABASE_URL": database_url, "LEASE_TTL": str(lease_s), **VAULT_ENV}
    async with running_world(folder, users=users, requests_per_second=requests_per_second, bridge_env=env) as world:
        await enter_credentials(world, folder, world.users)
        yield world


async def run_kill_drill(
    world: World,
    database_url: str,
    *,
    rate: float,
    operations: int,
    seed: int = 1,
    say: Callable[[str], object] = lambda line: None,
) -> KillReport:
    """Start all, trade, start and stop some, kill the bridge amid both, start it again, compare; then end it in order.

    `rate` is the bridge's own requests per second on the channel. A tenth of the users is started and stopped at
    random. Half of the others trade, before and after the kill.
    """
    rng = random.Random(seed)
    begun = time.monotonic()
    await world.sim("POST", "/prices", {"freeze": True})
    await world.start_all()
    await world.all_live(within_s=len(world.users) * (1 + TO_LIVE + FOR_PRICES) / rate + len(world.users) / 50 + 20)
    live_after = time.monotonic() - begun
    say(f"{len(world.users)} sessions live after {live_after:.1f} s")

    toggled = world.users[-max(2, len(world.users) // 10) :]
    steady = world.users[: len(world.users) - len(toggled)]
    traders, others = steady[: len(steady) // 2], steady[len(steady) // 2 :]
    await trade(world, rng, traders, operations // 3, deposits_for=steady)
    await seed_positions(world, rng, others[::5])  # nobody closes these before the kill
    commands, over = Commands(world, toggled, rng), asyncio.Event()
    toggling = asyncio.create_task(commands.keep_going(over))
    trading = asyncio.create_task(_keep_trading(world, rng, traders, over, operations // 3))
    held = {world.accounts[user] for user in others[::5]}
    await _noted(database_url, held)
    await commands.more(2 * len(toggled))

    world.bridge.send(signal.SIGKILL)
    over.set()
    await toggling
    await world.bridge.ended()
    wanted, noted = await stored_sessions(database_url)
    lost = commands.lost({user: world.accounts[user] in wanted for user in toggled})
    assert not lost, f"accepted commands that are not stored: {lost}"
    assert all(world.accounts[user] in wanted for user in steady)
    assert held <= noted, f"{len(held - noted)} of {len(held)} accounts at risk were not known to be"
    before = await world.sim("GET", "/counters")
    said = f"{commands.accepted} commands accepted, {commands.refused} could not be stored in time"
    say(f"killed with {len(wanted)} wanted, {len(noted)} of them at risk; {said}")

    started_at = time.monotonic()
    async with bridge_process("serve", env=world.env) as world.bridge:
        limit = float(world.env["LEASE_TTL"]) + 1.1 * (TO_LIVE * len(wanted) + FOR_PRICES * len(noted)) / rate + 5
        await world.ready()
        await _all_back(world, len(wanted), within_s=2 * limit)
        back = time.monotonic() - started_at
        say(f"all live again {back:.1f} s after the start (allowed {limit:.1f} s)")
        await trading
        ended = time.monotonic()
        users = {user for user in world.users if world.accounts[user] in wanted}
        await records_true(world, database_url, users, within_s=10.0)
        equal_after = time.monotonic() - ended
        after = await world.sim("GET", "/counters")
        _judge(before, after, wanted, noted)
        assert back <= limit, f"back after {back:.1f} s, allowed {limit:.1f} s"
        drained = await _drained(world, database_url, users)
        say(f"ended in order within {drained:.1f} s, every record says so")
    requests = Counter(after["requests"])
    requests.subtract(before["requests"])
    return KillReport(
        *(len(world.users), len(wanted), len(noted), live_after, back, limit, equal_after),
        *(commands.accepted, drained, +requests),
    )


class Commands:
    """Starts and stops users at random, one command of a user at a time, and remembers what was accepted.

    `last[user]`: whether the session is wanted by the last accepted command, None after one whose outcome is not known.
    """

    def __init__(self, world: World, users: Sequence[str], rng: random.Random) -> None:
        self._world = world
        self._users = users
        self._rng = rng
        self.last: dict[str, bool | None] = dict.fromkeys(users, True)
        self.accepted = self.refused = 0

    async def more(self, count: int) -> None:
        """Wait until so many more were accepted."""
        before = self.accepted
        await eventually(lambda: self.accepted >= before + count, within_s=60, every_s=0.02, what="more commands")

    async def keep_going(self, over: asyncio.Event) -> None:
        await asyncio.gather(*(self._toggle(user, over) for user in self._users))

    def lost(self, wanted: dict[str, bool]) -> dict[str, bool]:
        """Accepted commands that what is stored does not show."""
        return {user: last for user, last in self.last.items() if last is not None and wanted[user] is not last}

    async def _toggle(self, user: str, over: asyncio.Event) -> None:
        while not over.is_set():
            start = self._rng.random() < 0.5
            body = {"userId": user, "broker": "ctrader"}
            path = f"/api/{'start' if start else 'stop'}-session"
            before, self.last[user] = self.last[user], None
            try:
                answer = await self._world.api("POST", path, key=APP_KEY, body=body)
            except (aiohttp.ClientError, OSError):
                return  # killed: nobody knows
            assert answer["_status"] in (202, 429, 503), answer
            self.last[user] = {202: start, 429: before}.get(answer["_status"])  # 503: it may be stored or not
            self.accepted += answer["_status"] == 202
            self.refused += answer["_status"] == 503
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * len(self._users) / COMMANDS_PER_S)  # the pace of the load


async def _keep_trading(
    world: World, rng: random.Random, traders: Sequence[str], over: asyncio.Event, afterwards: int
) -> None:
    """Trade until the kill, and so many operations more while nobody listens and during the recovery."""
    while not over.is_set():
        await trade(world, rng, traders, 20, deposits_for=world.users)
        await asyncio.sleep(20 / TRADES_PER_S)  # the pace of the load
    await trade(world, rng, traders, afterwards, deposits_for=world.users)


async def _noted(url: str, held: set[str]) -> None:
    """Wait until the database knows that these are at risk."""

    async def known() -> bool:
        return held <= (await stored_sessions(url))[1]

    await eventually(known, within_s=NOTED_WITHIN_S, every_s=0.5, what="what is at risk is stored")


async def _all_back(world: World, count: int, *, within_s: float) -> None:
    async def back() -> bool:
        return await world.live() == count

    await eventually(back, within_s=within_s, every_s=0.1, what="every wanted session live again")


def _judge(before: Any, after: Any, wanted: set[str], noted: set[str]) -> None:
    """Holders first, everybody once, nobody else, nothing over the budget."""
    order = [str(entry["accountId"]) for entry in after["authOrder"][len(before["authOrder"]) :]]
    assert sorted(order) == sorted(wanted), f"{len(order)} logins for {len(wanted)} wanted sessions"
    holders = wanted & noted
    assert set(order[: len(holders)]) == holders, "a calm account was authorised before one at risk"
    for what in ("budgetViolations", "doubleLogins"):
        assert after[what] == 0, f"the simulator counted {what}: {after[what]}"
    asked = after["requests"].get(LISTING, 0) - before["requests"].get(LISTING, 0)
    assert asked == 0, f"{asked} account lists were read again, although they are kept with the grants"


async def stored_sessions(url: str) -> tuple[set[str], set[str]]:
    """Accounts whose session is wanted, and those of them that are noted as at risk, as an independent reader sees."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select account_id, at_risk from public.bridge_sessions where wanted")
    finally:
        await connection.close()
    return {row["account_id"] for row in rows}, {row["account_id"] for row in rows if row["at_risk"]}


async def primary_records(url: str, users: Sequence[str], broker: str = "ctrader") -> dict[str, Any]:
    """The users' records in Postgres, as an independent reader sees them."""
    connection = await asyncpg.connect(url)
    try:
        keys = [record_key(user, broker) for user in users]
        rows = await connection.fetch(
            "select key, document::text as document from public.account_cache where key = any($1)", keys
        )
    finally:
        await connection.close()
    found = {row["key"]: json.loads(row["document"]) for row in rows if row["document"]}
    return {user: found.get(record_key(user, broker)) for user in users}


async def records_true(world: World, url: str, wanted: set[str], *, within_s: float) -> None:
    """In Postgres and in its copy: live records equal the truth, and those of stopped sessions say so."""
    truths = {user: await world.sim("GET", f"/truth/{world.accounts[user]}") for user in wanted}
    wrong: dict[str, Any] = {}

    def judged(user: str, record: Any) -> list[str]:
        if user in wanted:
            return differences(record, truths[user])
        return [] if record and record["status"] == "stopped" else [f"not stopped: {record and record['status']}"]

    async def true() -> bool:
        copies = dict(zip(world.users, world.records(), strict=True))
        primary = await primary_records(url, world.users)
        wrong.clear()
        for user in world.users:
            if found := [*judged(user, primary[user]), *judged(user, copies[user])]:
                wrong[user] = found
        return not wrong

    try:
        await eventually(true, within_s=within_s, every_s=0.25, what="every record true")
    except AssertionError as late:
        raise AssertionError(f"{late}: {len(wrong)} wrong, such as {dict(list(wrong.items())[:4])}") from None


async def _drained(world: World, url: str, wanted: set[str]) -> float:
    """SIGTERM: exit 0 in time, and every record of a session that ran says why it is stale. Returns the seconds."""
    begun = time.monotonic()
    code = await world.bridge.stop(within_s=DRAIN_S + 2)
    took = time.monotonic() - begun
    assert code == 0, f"exit code {code}"
    copies = dict(zip(world.users, world.records(), strict=True))
    for where, records in (("Postgres", await primary_records(url, world.users)), ("Valkey", copies)):
        said = Counter((records[user]["status"], (records[user]["reason"] or {}).get("code")) for user in wanted)
        assert said == {("stale", "draining"): len(wanted)}, f"in {where} after the end: {said}"
    still, _ = await stored_sessions(url)
    assert still == {world.accounts[user] for user in wanted}, "the end changed what is wanted"
    return took
