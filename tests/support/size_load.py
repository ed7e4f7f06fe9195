"""Who holds what in a run at size, and the trading meanwhile. Holders never lose all that they hold.

So it is known without asking who is at risk at any moment: exactly the holders. What the load opens, it closes again.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from tests.support.world import APP_KEY, World

AT_ONCE = 16
PAIRS = ("GBPUSD", "USDJPY")  # beside EURUSD, by turns
TRADED = "EURUSD"
STOCKS = ("AAPL", "MSFT", "SPY")
STOCK_TRADED = "F"
OPEN_AT_MOST = 500  # positions beyond those that holders keep


async def all_of(work: Iterable[Callable[[], Awaitable[Any]]], *, at_once: int = AT_ONCE) -> list[Any]:
    """Await all of these, so many at once; results in order."""
    gate = asyncio.Semaphore(at_once)

    async def gated(one: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await one()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(gated(one)) for one in work]
    return [task.result() for task in tasks]


async def start_all(place: World) -> None:
    """Start everybody, as callers who ask again when they are told that there is no room at the moment."""

    async def one(user: str) -> None:
        body = {"userId": user, "broker": place.broker, "environment": "demo"}
        while (answer := await place.api("POST", "/api/start-session", key=APP_KEY, body=body))["_status"] != 202:
            assert answer["_status"] in (429, 503), answer
            await asyncio.sleep(0.5)  # until there may be room

    await all_of([partial(one, user) for user in place.users])


class Load:
    """`holders` by broker: two positions each at the first broker, one at the second."""

    def __init__(self, first: World, second: World, rng: random.Random, share: float) -> None:
        self._first = first
        self._second = second
        self._rng = rng
        self._opened: deque[tuple[World, str, Any]] = deque()  # place, account, position id or units
        self.holders: dict[str, Sequence[str]] = {
            place.broker: sorted(rng.sample(list(place.users), round(share * len(place.users))))
            for place in (first, second)
        }
        self.operations = 0

    def accounts_of_holders(self, place: World) -> set[str]:
        return {place.accounts[user] for user in self.holders[place.broker]}

    async def seed(self) -> None:
        """Give every holder what it keeps."""
        work: list[Callable[[], Awaitable[Any]]] = []
        for number, user in enumerate(self.holders[self._first.broker]):
            account = self._first.accounts[user]
            symbols = (TRADED, PAIRS[number % len(PAIRS)])
            work += [partial(self._order, self._first, account, symbol, 1000) for symbol in symbols]
        for number, user in enumerate(self.holders[self._second.broker]):
            account, symbol = self._second.accounts[user], STOCKS[number % len(STOCKS)]
            work.append(partial(self._order, self._second, account, symbol, 5))
        await all_of(work)

    async def keep_going(self, per_second: float, over: asyncio.Event) -> None:
        """Trade at both brokers, a fifth of it at the second, until told to end."""
        due = time.monotonic()
        while not over.is_set():
            await self._one()
            self.operations += 1
            due = max(due + 1 / per_second, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))  # the pace of the load

    async def _one(self) -> None:
        rng = self._rng
        place = self._second if rng.random() < 0.2 and self.holders[self._second.broker] else self._first
        if rng.random() < 0.2:
            account = self._first.accounts[rng.choice(self._first.users)]
            await self._first.sim("POST", f"/accounts/{account}/deposit", {"amount": rng.randint(1, 500)})
        elif len(self._opened) > OPEN_AT_MOST or (self._opened and rng.random() < 0.5):
            await self._close(*self._opened.popleft())
        else:
            account = place.accounts[rng.choice(self.holders[place.broker])]
            if place is self._first:
                made = await self._order(place, account, TRADED, 1000)
                if made is not None:
                    self._opened.append((place, account, made["positionId"]))
            elif await self._order(place, account, STOCK_TRADED, 2) is not None:
                self._opened.append((place, account, 2))

    async def _order(self, place: World, account: str, symbol: str, units: int, side: str = "buy") -> Any:
        body = {"symbol": symbol, "side": side, "type": "market", "units": units}
        return await place.sim("POST", f"/accounts/{account}/order", body, refusable=True)

    async def _close(self, place: World, account: str, what: Any) -> None:
        if place is self._first:
            await place.sim("POST", f"/accounts/{account}/close", {"positionId": what}, refusable=True)
        else:
            await self._order(place, account, STOCK_TRADED, what, "sell")
