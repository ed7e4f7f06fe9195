"""The running world as faults of the simulated Alpaca meet it: who lives in it, how they trade, what is asked of them.

Four users, one account each: one that holds and does not trade, the victim, one that trades with a consent while
others are in trouble, one that holds nothing. Three proxies stand between bridge and simulator (REST, trading stream,
prices), so that each may be in trouble alone. Invariant: every execution at the broker is noted by the bridge once.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bridge.simulator.alpaca.faults import CATALOGUE
from tests.support.fault_proxy import FaultProxy, Lines, fault_proxy
from tests.support.fault_scene import SEEN_WITHIN_S, FaultScene
from tests.support.quick_bridge import ALPACA_WAITS
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import record_key, running_world

QUIET, VICTIM, TRADER, EMPTY = "user-1", "user-2", "user-3", "user-4"
USERS = 4
OPTION = "AAPL350119C00240000"
HELD: Mapping[str, tuple[tuple[str, float], ...]] = {
    QUIET: (("MSFT", 4), ("SPY", 2)),
    VICTIM: (("AAPL", 10), ("BTC/USD", 0.2), (OPTION, 1)),
    TRADER: (("TSLA", 6), ("ETH/USD", 1)),
}
TRADED = {VICTIM: ("AAPL", "BTC/USD", 0.01), TRADER: ("TSLA", "ETH/USD", 0.05)}
DEPOSIT = 7  # no message tells of it
SLOT_S = 1.0  # how long the broker holds the slot of a stream that vanished
REQUESTS_PER_MINUTE = 2_000
COUNT = 'bridge_broker_counts_total{broker="alpaca",what="%s"'


@dataclass(kw_only=True)
class AlpacaScene(FaultScene):
    """Accounts that trade at Alpaca. `rest`, `stream`, `prices`: the lines to it."""

    BROKER: ClassVar[str] = "Alpaca"
    TITLES: ClassVar[Mapping[str, str]] = {name: kind.title for name, kind in CATALOGUE.items()}
    SOCKETS: ClassVar[float] = 3  # trading, prices of stocks and of crypto
    SILENCE_S: ClassVar[float] = ALPACA_WAITS["ping_s"] + ALPACA_WAITS["pong_timeout_s"]
    UNCOUNTED = frozenset({"N18"})
    VICTIMS_ONLY = frozenset({"N23", "N42", "BROKEN_BODY", "ODD_ANSWER"})

    rest: FaultProxy
    stream: FaultProxy
    prices: FaultProxy
    moved: int = 0

    @property
    def bystanders(self) -> list[str]:
        return [QUIET, EMPTY]

    @property
    def lines(self) -> tuple[FaultProxy, ...]:
        return self.rest, self.stream, self.prices

    async def logins(self) -> int:
        opened: int = await self.counted("tradingStreamsOpened")
        return opened

    async def order(self, user: str, symbol: str, side: str, units: float, **more: object) -> Any:
        """Place an order. None when refused: the rest of a partly filled one makes its opposite a wash trade."""
        body = {"symbol": symbol, "side": side, "units": units, **more}
        path = f"/accounts/{self.world.accounts[user]}/order"
        return await self.world.sim("POST", path, body, refusable=True)

    async def cut(self) -> None:
        """Every trading stream is dropped, and no slot is held."""
        await self.fault("N40", stream="trading", holdSlot=False)

    async def move(self, symbol: str = "AAPL") -> None:
        """One trade of a symbol at another price."""
        self.moved += 1
        price = {"AAPL": 226, "BTC/USD": 95_000, "TSLA": 350, "MSFT": 417}[symbol] + self.moved % 7 + 0.25
        await self.world.broker_sim("POST", "/prices", {"symbol": symbol, "price": price})

    async def trade(self, user: str = VICTIM, *, rounds: int = 1) -> None:
        """Money, executions of both kinds of asset, and orders that come, change and go."""
        stock, coin, amount = TRADED[user]
        path = f"/accounts/{self.world.accounts[user]}"
        for _ in range(rounds):
            await self.world.sim("POST", f"{path}/deposit", {"amount": DEPOSIT})
            await self.order(user, stock, "buy", 2)
            pending = await self.order(user, "F", "buy", 5, type="limit", limitPrice=1, timeInForce="gtc")
            await self.order(user, stock, "sell", 2)
            await self.order(user, coin, "buy", amount)
            await self.order(user, coin, "sell", round(0.9 * amount, 4))
            await self.world.sim("POST", f"{path}/cancel", {"orderId": pending["orderId"]})
            await self.move(stock)

    async def holdings(self, user: str = VICTIM) -> dict[str, float]:
        """Units by position, as the broker has them once the rests of partly filled orders are through."""

        async def through() -> Any:
            truth = await self.world.sim("GET", f"/truth/{self.world.accounts[user]}")
            return truth if all(row["status"] != "partially_filled" for row in truth["orders"]) else None

        truth = await eventually(through, within_s=3, every_s=0.05, what="all orders are through")
        return {row["id"]: row["units"] for row in truth["positions"]}

    def shown(self, user: str = VICTIM) -> dict[str, float]:
        """Units by position, as the record says."""
        return {row["id"]: row["units"] for row in self.record(user)["positions"]}

    async def judged(self) -> None:
        """No second stream of an account was open, and every execution is known once."""
        assert await self.counted("doubleLogins") == 0
        await self.executions_known(within_s=4)
        self.held("every execution known once")

    async def executions_known(self, *, within_s: float) -> None:
        """As many executions were noted as were made; never more."""

        async def made_and_noted() -> tuple[int, int]:
            now, before = (each["executionsByAccount"] for each in (await self.counters(), self.before))
            made = sum(now.get(account, 0) - before.get(account, 0) for account in self.world.accounts.values())
            return made, round(await self.metric(COUNT % "fills" + "}"))

        async def equal() -> bool:
            made, noted = await made_and_noted()
            return made == noted

        try:
            await eventually(equal, within_s=within_s, every_s=0.1, what="executions are known")
        except AssertionError:
            made, noted = await made_and_noted()
            raise AssertionError(f"{made} executions were made, {noted} were noted") from None

    async def bystander_trades(self, *, within_s: float = 3) -> None:
        """Somebody else's session is live all the time, and shows at once what it did."""
        await self.trade(TRADER)
        await self.equal(TRADER, within_s=within_s)
        assert self.watcher.statuses(TRADER) <= {"live"}, self.watcher.seen[TRADER]
        self.held(f"somebody else trades on, live and equal within {within_s:g} s")

    async def says(self, code: str, *users: str, within_s: float = SEEN_WITHIN_S) -> None:
        """The records of these users (all) gave this reason."""
        wanted = users or self.users
        await eventually(
            lambda: all(code in self.watcher.codes(user) for user in wanted),
            within_s=within_s,
            what=lambda: f"all say {code}: {[self.watcher.seen[user] for user in wanted]}",
        )


@asynccontextmanager
async def alpaca_scene(
    folder: Path,
    *,
    users: int = USERS,
    bridge_module: str = "tests.support.quick_bridge",
    slot_s: float = SLOT_S,
    **env: str,
) -> AsyncIterator[AlpacaScene]:
    """Everything running, all sessions live and holding something, prices standing still unless told."""
    credentials = folder / "consents.json"
    _write_credentials(credentials, users)
    async with AsyncExitStack() as stack:
        lines = rest, stream, prices = [await stack.enter_async_context(fault_proxy()) for _ in range(3)]
        bridge_env = {
            "BRIDGE_CREDENTIALS_FILE": str(credentials),
            "ALPACA_PAPER_URL": f"http://127.0.0.1:{rest.port}",
            "ALPACA_PAPER_STREAM_URL": f"ws://127.0.0.1:{stream.port}/stream",
            "ALPACA_DATA_URL": f"ws://127.0.0.1:{prices.port}",
            "ALPACA_REQUESTS_PER_MINUTE": str(REQUESTS_PER_MINUTE * 9 // 10),
            "ALPACA_DIALS_PER_SECOND": "50",
            "ALPACA_POLL_SECONDS": "1",
            "LOG_FORMAT": "json",
            "CACHE_FLUSH_INTERVAL": "0.25",
            **env,
        }
        arguments = ("--alpaca-slot-seconds", str(slot_s), "--alpaca-requests-per-minute", str(REQUESTS_PER_MINUTE))
        running = running_world(
            folder, users=users, simulator_arguments=arguments, bridge_env=bridge_env, bridge_module=bridge_module
        )
        world = (await stack.enter_async_context(running)).at("alpaca", [f"user-{n}" for n in range(1, users + 1)])
        for line in lines:
            line.target = world.ports["alpaca"]
        await world.broker_sim("POST", "/prices", {"freeze": True})
        await world.start_all()
        await world.all_live(within_s=20)
        keys = {user: record_key(user, "alpaca") for user in world.users}
        watcher = stack.enter_context(Watcher(world.valkey.url, keys, Lines(rest, stream)))
        scene = AlpacaScene(world=world, watcher=watcher, rest=rest, stream=stream, prices=prices)
        await scene.begin()
        await _hold_something(scene)
        await scene.equal(within_s=10)
        await scene.executions_known(within_s=5)
        yield scene
        assert watcher.samples


def _write_credentials(path: Path, users: int) -> None:
    """Key pairs, and a consent for the one who trades."""
    entries: dict[str, dict[str, object]] = {}
    for number in range(1, users + 1):
        entry = {"keyId": f"SIMKEY{number}", "secretKey": f"sim-alpaca-secret-{number}"}
        if f"user-{number}" == TRADER:
            entry = {"accessToken": f"sim-alpaca-oauth-{number}"}
        entries[f"user-{number}"] = {"alpaca": {**entry, "environment": "paper"}}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        json.dump({"users": entries}, file)


async def _hold_something(scene: AlpacaScene) -> None:
    for user in scene.users:
        for symbol, units in HELD.get(user, ()):
            await scene.order(user, symbol, "buy", units)
        if user == EMPTY:
            continue
        await scene.order(user, "F", "buy", 5, type="limit", limitPrice=1, timeInForce="gtc")
        exits = {"takeProfit": 900, "stopLoss": 1, "orderClass": "bracket", "timeInForce": "gtc"}
        await scene.order(user, "GME", "buy", 1, **exits)  # of nothing that is traded: no wash trades
