"""A storm: many sessions on one channel, random trading, a mass cut in the middle, and a comparison with the truth.

Used by the test suite at ten times the broker's rate and by `scripts/storm` at the real one. Everything is measured
through the doors that users have. Raises AssertionError with what differed.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.world import World

REQUESTS_TO_LIVE = 4  # authorise, trader, reconcile, one subscription (DESIGN §5)
TRADED = ("EURUSD", "GBPUSD", "USDJPY")
PER_POSITION = ("symbol", "side", "units", "entryPrice", "currentPrice", "stopLoss", "takeProfit", "swap", "commission")
PER_POSITION_MONEY = ("unrealizedPnl", "usedMargin")
PER_ORDER = ("symbol", "side", "type", "units", "filledUnits", "limitPrice", "stopPrice", "stopLoss", "takeProfit")
PER_ACCOUNT = ("currency", "balance", "equity", "unrealizedPnl", "usedMargin", "freeMargin", "marginLevel", "leverage")


@dataclass(slots=True)
class StormReport:
    """What was seen; seconds."""

    sessions: int
    operations: int
    first_live_s: float
    back_live_s: float
    back_live_limit_s: float
    equal_after_s: float
    holders_at_cut: int


def limit_s(sessions: int, rate: float, channels: int = 1) -> float:
    """The time DESIGN §15 allows for all sessions to be live again."""
    return 1.1 * sessions * REQUESTS_TO_LIVE / (rate * channels) + 5


async def run_storm(
    world: World, *, rate: float, operations: int, seed: int = 1, say: Callable[[str], object] = lambda line: None
) -> StormReport:
    """Start all sessions, trade at random, cut the channel half-way, and compare every record with the truth.

    `rate` is the bridge's own requests per second on the channel. Only the first half of the users trades with
    positions before the cut, so that the order of recovery can be judged.
    """
    rng = random.Random(seed)
    limit = limit_s(len(world.users), rate)
    begun = time.monotonic()
    await world.start_all()
    await world.all_live(within_s=limit + len(world.users) / 50)  # the API admits 100 starts a second
    first_live = time.monotonic() - begun
    say(f"{len(world.users)} sessions live after {first_live:.1f} s")

    await world.sim("POST", "/prices", {"freeze": True})
    half = operations // 2
    holders = world.users[: len(world.users) // 2]
    await trade(world, rng, holders, half, deposits_for=world.users)
    await seed_positions(world, rng, holders[::5])
    at_risk, calm = await _by_risk(world)
    before = await world.sim("GET", "/counters")
    cut_at = time.monotonic()
    await world.sim("POST", "/faults", {"id": "N40"})
    trading = asyncio.create_task(trade(world, rng, world.users, operations - half, deposits_for=world.users))
    await _until_cut_is_seen(world)
    await world.all_live(within_s=limit)
    back_live = time.monotonic() - cut_at
    say(f"all live again {back_live:.1f} s after the cut (limit {limit:.1f} s)")
    await trading
    ended = time.monotonic()
    await _equal(world, within_s=5.0)
    equal_after = time.monotonic() - ended
    after = await world.sim("GET", "/counters")
    assert after["budgetViolations"] == 0, f"the simulator counted budget violations: {after['budgetViolations']}"
    assert after["doubleLogins"] == 0, f"the simulator counted double logins: {after['doubleLogins']}"
    assert back_live <= limit, f"back after {back_live:.1f} s, allowed {limit:.1f} s"
    _judge_order(before, after, at_risk, calm)
    return StormReport(len(world.users), operations, first_live, back_live, limit, equal_after, len(at_risk))


async def trade(world: World, rng: random.Random, traders: Any, count: int, *, deposits_for: Any) -> None:
    """Random market and pending orders, closes, deposits and price moves, a few at once."""
    prices = {"EURUSD": 1.1, "GBPUSD": 1.28, "USDJPY": 150.0}
    digits = {row["accountId"]: row["moneyDigits"] for row in (await world.sim("GET", "/accounts"))["accounts"]}

    async def one() -> None:
        kind = rng.choices(("order", "close", "deposit", "price"), (45, 20, 30, 5))[0]
        user = rng.choice(deposits_for if kind == "deposit" else traders)
        path = f"/accounts/{world.accounts[user]}"
        match kind:
            case "order":
                await world.sim("POST", f"{path}/order", _random_order(rng, prices), refusable=True)
            case "close":
                await _close_one(world, rng, path)
            case "deposit":
                await world.sim(
                    "POST", f"{path}/deposit", {"amount": _random_amount(rng, digits[world.accounts[user]])}
                )
            case "price":
                await world.sim("POST", "/prices", {"quotes": _moved(rng, prices)})

    gate = asyncio.Semaphore(8)

    async def gated() -> None:
        async with gate:
            await one()

    for start in range(0, count, 200):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(200, count - start)):
                group.create_task(gated())


def _random_amount(rng: random.Random, digits: int) -> float:
    return rng.randint(1, 50_000) if digits == 0 else round(rng.randint(1, 50_000) / 10**digits, digits)


def _random_order(rng: random.Random, prices: dict[str, float]) -> dict[str, object]:
    symbol = rng.choice(TRADED)
    side = rng.choice(("buy", "sell"))
    order: dict[str, object] = {"symbol": symbol, "side": side, "type": "market", "units": rng.randint(1, 5) * 1000}
    if rng.random() < 0.25:
        away = 0.9 if side == "buy" else 1.1
        order |= {"type": "limit", "limitPrice": round(prices[symbol] * away, 3 if "JPY" in symbol else 5)}
    return order


async def _close_one(world: World, rng: random.Random, path: str) -> None:
    truth = await world.sim("GET", path.replace("/accounts", "/truth"))
    if truth["positions"]:
        await world.sim("POST", f"{path}/close", {"positionId": rng.choice(truth["positions"])["id"]}, refusable=True)


def _moved(rng: random.Random, prices: dict[str, float]) -> dict[str, dict[str, float]]:
    symbol = rng.choice(TRADED)
    digits = 3 if "JPY" in symbol else 5
    prices[symbol] = round(prices[symbol] * (1 + rng.uniform(-0.0005, 0.0005)), digits)
    return {symbol: {"bid": prices[symbol], "ask": round(prices[symbol] + 2 * 10**-digits, digits)}}


async def seed_positions(world: World, rng: random.Random, users: Any) -> None:
    """Make sure that enough accounts hold something at the cut."""
    for user in users:
        body = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000}
        await world.sim("POST", f"/accounts/{world.accounts[user]}/order", body)


async def _by_risk(world: World) -> tuple[set[str], set[str]]:
    """Accounts with and without positions or orders, by the simulator's truth and agreed by the records."""
    at_risk, calm = set(), set()
    for user in world.users:
        truth = await world.sim("GET", f"/truth/{world.accounts[user]}")
        (at_risk if truth["positions"] or truth["orders"] else calm).add(world.accounts[user])
    return at_risk, calm


async def _until_cut_is_seen(world: World) -> None:
    deadline = time.monotonic() + 10
    while await world.live() == len(world.users):
        assert time.monotonic() < deadline, "the cut was not noticed"
        await asyncio.sleep(0.01)


def _judge_order(before: Any, after: Any, at_risk: set[str], calm: set[str]) -> None:
    """Accounts at risk first: of the authorisations after the cut, all of theirs come before any calm one's."""
    order = [str(entry["accountId"]) for entry in after["authOrder"][len(before["authOrder"]) :]]
    places_at_risk = [place for place, account in enumerate(order) if account in at_risk]
    places_calm = [place for place, account in enumerate(order) if account in calm]
    assert len(places_at_risk) >= len(at_risk), "not every account at risk was authorised again"
    assert max(places_at_risk) < min(places_calm), (
        f"{len(at_risk)} accounts at risk were authorised up to place {max(places_at_risk)}, "
        f"the first calm one at place {min(places_calm)}"
    )


async def _equal(world: World, *, within_s: float) -> None:
    """Every record equals the truth, at the latest `within_s` from now."""
    deadline = time.monotonic() + within_s
    truths = {user: await world.sim("GET", f"/truth/{world.accounts[user]}") for user in world.users}
    while True:
        records = dict(zip(world.users, world.records(), strict=True))
        wrong = {user: found for user in world.users if (found := differences(records[user], truths[user]))}
        if not wrong:
            return
        if time.monotonic() > deadline:
            some = dict(list(wrong.items())[:5])
            raise AssertionError(f"{len(wrong)} of {len(world.users)} records differ from the truth: {some}")
        await asyncio.sleep(0.1)


def differences(record: Any, truth: Any) -> list[str]:
    """Field by field, what a record says against what the broker itself believes."""
    if not isinstance(record, dict) or "status" not in record:  # a stranger may have overwritten it
        return ["no record"]
    if record["status"] != "live":
        return [f"status {record['status']} {record['reason']}"]
    found = [f"{name}: {record[name]} != {truth[name]}" for name in PER_ACCOUNT if record[name] != truth[name]]
    for kind, names in (("positions", (*PER_POSITION, *PER_POSITION_MONEY)), ("orders", PER_ORDER)):
        mine = {str(row["id"]): row for row in record[kind] or ()}
        theirs = {str(row["id"]): row for row in truth[kind]}
        if mine.keys() != theirs.keys():
            found.append(f"{kind}: {sorted(mine)} != {sorted(theirs)}")
            continue
        found += [
            f"{kind} {key} {name}: {mine[key][name]} != {theirs[key][name]}"
            for key in mine
            for name in names
            if mine[key][name] != theirs[key][name]
        ]
    return found
