"""Sessions at two brokers in one process: random trading, three cuts at each, and a comparison with both truths.

Used by the test suite and by `scripts/storm --two-brokers`. Everything is measured through the doors that users have.
Raises AssertionError with what differed.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.support import storm
from tests.support.waiting import eventually
from tests.support.world import OPS_KEY, World

CUTS = 3
DIALS_PER_SECOND = 5  # to one host, by default; at the second broker every account has a stream of its own
SLOT_WAIT_S = 95.0  # after a refusal, because the slot of a stream that died is held for about 90 s
STOCKS = {"AAPL": 226.4, "MSFT": 417.1, "SPY": 600.0, "F": 11.2}
CRYPTO = {"BTC/USD": 95_000.0, "ETH/USD": 3_300.0}
FOUND_WITHIN_S = 90.0  # history has a tenth of the request budget
EQUAL_WITHIN_S = 80.0  # no event tells of a deposit at the second broker: the reconcile finds it within 72 s

Say = Callable[[str], object]


@dataclass(slots=True)
class Report:
    """What was seen, by broker; seconds."""

    sessions: dict[str, int]
    operations: int
    live_s: float
    back_live_s: list[float]
    equal_after_s: dict[str, float]
    executions: dict[str, int]
    recovered: dict[str, int]


async def run_two_brokers(
    world: World,
    *,
    second_users: int,
    rate: float,
    operations: int,
    held_slots_s: float = 0.0,
    seed: int = 1,
    say: Say = lambda line: None,
) -> Report:
    """Start everybody, trade at both brokers, cut both three times amid the trading, and compare every record.

    `rate`: the bridge's requests per second on the channel of the first broker. `held_slots_s`: how long the second one
    holds the slot of a stream that was cut; the bridge waits a little longer than the real one's 90 s.
    """
    rng = random.Random(seed)
    first, second = world, world.at("alpaca", world.users[:second_users])
    places = (first, second)
    count = len(first.users) + len(second.users)
    dials = int(world.env.get("ALPACA_DIALS_PER_SECOND", DIALS_PER_SECOND))
    limit = max(storm.limit_s(len(first.users), rate), len(second.users) / dials + 10)
    limit += SLOT_WAIT_S if held_slots_s else 0.0
    begun = time.monotonic()
    for place in places:
        await place.start_all()
    await _all_live(world, count, within_s=2 * limit + count / 50)
    live_s = time.monotonic() - begun
    say(f"{count} sessions live after {live_s:.1f} s")

    for place in places:
        await place.broker_sim("POST", "/prices", {"freeze": True})
    back: list[float] = []
    share = operations // (CUTS + 1)
    await _trade(first, second, rng, share)
    for number in range(1, CUTS + 1):
        cut_at = time.monotonic()
        await first.broker_sim("POST", "/faults", {"id": "N40"})
        await second.broker_sim("POST", "/faults", {"id": "N40", "holdSlot": held_slots_s > 0})
        left = operations - share * CUTS if number == CUTS else share
        trading = asyncio.create_task(_trade(first, second, rng, left))
        await eventually(lambda: _fewer_live(world, count), within_s=10, every_s=0.02, what="the cut is seen")
        await _all_live(world, count, within_s=3 * limit)  # how long it may take is asked by the other storms
        back.append(time.monotonic() - cut_at)
        say(f"all live again {back[-1]:.1f} s after cut {number}")
        await trading
    ended = time.monotonic()
    equal = {}
    for place in places:
        await _equal(place, within_s=EQUAL_WITHIN_S)
        equal[place.broker] = time.monotonic() - ended
    executions = {place.broker: await _all_executions_known(place) for place in places}
    recovered = {place.broker: await _counted(place, "fills_recovered") for place in places}
    for place in places:
        after = await place.broker_sim("GET", "/counters")
        for name in ("budgetViolations", "doubleLogins"):
            assert after[name] == 0, f"the simulated {place.broker} counted {name}: {after[name]}"
        assert recovered[place.broker] > 0, f"{place.broker}: no execution fell into a cut, so none had to be found"
    sessions = {place.broker: len(place.users) for place in places}
    return Report(sessions, operations, live_s, back, equal, executions, recovered)


async def _trade(first: World, second: World, rng: random.Random, count: int) -> None:
    """As many operations at each broker as its share of the sessions, but at least a third."""
    theirs = max(count // 3, count * len(second.users) // (len(first.users) + len(second.users)))
    async with asyncio.TaskGroup() as group:
        group.create_task(storm.trade(first, rng, first.users, count - theirs, deposits_for=first.users))
        group.create_task(trade_stocks(second, rng, theirs))


async def trade_stocks(world: World, rng: random.Random, count: int) -> None:
    """Orders of several classes, cancels, closes, deposits and price moves, a few at once."""
    prices = {**STOCKS, **CRYPTO}
    gate = asyncio.Semaphore(8)

    async def one() -> None:
        kind = rng.choices(("order", "close", "cancel", "deposit", "price"), (55, 15, 10, 15, 5))[0]
        path = f"/accounts/{world.accounts[rng.choice(world.users)]}"
        async with gate:
            match kind:
                case "order":
                    await world.sim("POST", f"{path}/order", _order(rng, prices), refusable=True)
                case "close":
                    await _one_of(world, rng, path, "positions", "close", "positionId")
                case "cancel":
                    await _one_of(world, rng, path, "orders", "cancel", "orderId")
                case "deposit":
                    await world.sim("POST", f"{path}/deposit", {"amount": round(rng.uniform(1, 5000), 2)})
                case "price":
                    symbol = rng.choice([*prices])
                    prices[symbol] = round(prices[symbol] * (1 + rng.uniform(-0.002, 0.002)), 2)
                    await world.broker_sim("POST", "/prices", {"quotes": {symbol: {"price": prices[symbol]}}})

    for start in range(0, count, 200):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(200, count - start)):
                group.create_task(one())


def _order(rng: random.Random, prices: dict[str, float]) -> dict[str, object]:
    symbol = rng.choice([*prices])
    side = rng.choice(("buy", "buy", "sell"))
    if symbol in CRYPTO:
        return {"symbol": symbol, "side": side, "units": round(rng.uniform(0.01, 0.05), 4), "timeInForce": "gtc"}
    order: dict[str, object] = {"symbol": symbol, "side": side, "units": rng.randint(1, 5)}
    price, chance = prices[symbol], rng.random()
    if chance < 0.2:
        away = 0.9 if side == "buy" else 1.1
        order |= {"type": "limit", "limitPrice": round(price * away, 2), "timeInForce": "gtc"}
    elif chance < 0.3 and side == "buy":
        exits = {"takeProfit": round(price * 1.2, 2), "stopLoss": round(price * 0.8, 2)}
        order |= {"orderClass": "bracket", "timeInForce": "gtc", **exits}
    elif chance < 0.35:
        order |= {"type": "trailing_stop", "trailPercent": 20, "timeInForce": "gtc"}
    return order


async def _one_of(world: World, rng: random.Random, path: str, kind: str, action: str, name: str) -> None:
    truth = await world.sim("GET", path.replace("/accounts", "/truth"))
    if truth[kind]:
        await world.sim("POST", f"{path}/{action}", {name: rng.choice(truth[kind])["id"]}, refusable=True)


async def _all_live(world: World, count: int, *, within_s: float) -> None:
    async def enough() -> bool:
        return await world.live() == count

    try:
        await eventually(enough, within_s=within_s, every_s=0.1, what="all sessions live")
    except AssertionError as error:
        raise AssertionError(f"{error}: {await not_live(world)}") from None


async def not_live(world: World) -> Counter[str]:
    """What the others are, and why."""
    page = await world.api("GET", "/api/sessions?limit=1000")
    rows = [*page["sessions"]]
    while page["next"]:
        page = await world.api("GET", f"/api/sessions?limit=1000&after={page['next']}")
        rows += page["sessions"]
    found = [f"{row['broker']} {row['state']} {row['reason']}" for row in rows if row["status"] != "live"]
    return Counter(found)


async def _fewer_live(world: World, count: int) -> bool:
    return await world.live() < count


async def _equal(world: World, *, within_s: float) -> None:
    """Every record equals its broker's truth, at the latest `within_s` from now."""
    truths = [await world.sim("GET", f"/truth/{world.accounts[user]}") for user in world.users]
    deadline = time.monotonic() + within_s
    while True:
        pairs = zip(world.users, world.records(), truths, strict=True)
        wrong = {user: found for user, record, truth in pairs if (found := storm.differences(record, truth))}
        if not wrong:
            return
        if time.monotonic() > deadline:
            some = dict(list(wrong.items())[:5])
            raise AssertionError(f"{world.broker}: {len(wrong)} of {len(world.users)} records differ: {some}")
        await asyncio.sleep(0.2)  # until the next look at the records


async def _all_executions_known(world: World) -> int:
    """Every execution that the broker made on these accounts has been noted, once."""
    made_by = (await world.broker_sim("GET", "/counters"))["executionsByAccount"]
    made = sum(made_by.get(account, 0) for account in world.accounts.values())

    async def known() -> bool:
        return await _counted(world, "fills") >= made

    await _within(known, FOUND_WITHIN_S)
    noted = await _counted(world, "fills")
    assert noted == made, f"{world.broker}: {made} executions were made, {noted} noted"
    return made


async def _within(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.5)  # until the next look; who asks judges what was reached


async def _counted(world: World, what: str) -> int:
    headers = {"Authorization": f"Bearer {OPS_KEY}"}
    async with world.http.get(f"{world.url}/metrics", headers=headers) as answer:
        text = await answer.text()
    pattern = rf'bridge_broker_counts_total{{broker="{world.broker}",what="{what}"}} ([0-9.e+]+)'
    found: Any = re.search(pattern, text)
    return 0 if found is None else round(float(found[1]))
