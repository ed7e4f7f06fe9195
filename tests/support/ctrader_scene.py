"""The running world as faults of the simulated cTrader meet it: six users on one channel, and how they trade.

A proxy stands between bridge and simulator, so that the line may be in trouble without either of them. Invariant:
every execution at the broker is noted by the bridge once.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bridge.simulator.ctrader.faults import CATALOGUE
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.fault_scene import SEEN_WITHIN_S, FaultScene
from tests.support.quick_bridge import WAITS
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import record_key, running_world

USERS = 6
VICTIM = "user-2"  # EUR, hedged; the fault aims at this one where it can
BYSTANDER = "user-3"
EMPTY = "user-6"  # holds nothing
COUNT = 'bridge_broker_counts_total{broker="ctrader",what="%s"'
MARKET = {"symbol": "EURUSD", "type": "market"}
PENDING = {"symbol": "EURUSD", "side": "buy", "type": "limit", "units": 1000, "limitPrice": 1.0}


@dataclass(kw_only=True)
class CtraderScene(FaultScene):
    """Accounts that trade at cTrader. `line`: to the broker, of all of them."""

    BROKER: ClassVar[str] = "cTrader"
    TITLES: ClassVar[Mapping[str, str]] = {name: kind.title for name, kind in CATALOGUE.items()}
    SOCKETS: ClassVar[float] = 1 / USERS
    SILENCE_S: ClassVar[float] = WAITS["probe_after_s"] + WAITS["probe_timeout_s"]
    UNCOUNTED = frozenset({"N16", "N26"})  # unknown types and heartbeats that are not due are not counted
    VICTIMS_ONLY = frozenset({"N14", "N23", "N42"})

    line: FaultProxy

    @property
    def lines(self) -> tuple[FaultProxy, ...]:
        return (self.line,)

    async def logins(self) -> int:
        opened: int = await self.counted("connectionsOpened")
        return opened

    @property
    def victim(self) -> int:
        return int(self.victim_account)

    @property
    def victim_account(self) -> int:
        return int(self.world.accounts[VICTIM])

    async def cut(self) -> None:
        await self.fault("N40")

    async def trade(self, user: str = VICTIM, *, rounds: int = 1) -> None:
        """Deposit, open, close, protect and place a pending order: every kind of event."""
        path = f"/accounts/{self.world.accounts[user]}"
        for _ in range(rounds):
            await self.world.sim("POST", f"{path}/deposit", {"amount": 7})
            first = await self.world.sim("POST", f"{path}/order", {**MARKET, "side": "buy", "units": 1000})
            await self.world.sim("POST", f"{path}/order", {**MARKET, "side": "sell", "units": 2000})
            pending = await self.world.sim("POST", f"{path}/order", PENDING)
            await self.world.sim("POST", f"{path}/protect", {"positionId": first["positionId"], "stopLoss": 1.01})
            await self.world.sim("POST", f"{path}/close", {"positionId": first["positionId"]})
            await self.world.sim("POST", f"{path}/cancel", {"orderId": pending["orderId"]})

    async def bystander_trades(self) -> None:
        """Somebody else's session is live all the time, and shows at once what it did."""
        await self.trade(BYSTANDER)
        await self.equal(BYSTANDER, within_s=3)
        assert self.watcher.statuses(BYSTANDER) <= {"live"}, self.watcher.seen[BYSTANDER]
        self.held("somebody else trades on, live and equal within 3 s")

    async def all_notice(self) -> None:
        """All say that they are away; meanwhile there is trade."""
        await self.seen_not_live()
        await self.trade()

    async def nothing_happens(self) -> None:
        """No reconnect, no wrong number; traffic goes on."""
        await self.trade()
        await self.equal(within_s=3)
        assert await self.counted("connectionsOpened") == 0
        self.held("no reconnect")

    async def all_say(self, code: str, *, within_s: float = SEEN_WITHIN_S) -> None:
        """The records of all gave this reason."""
        await eventually(
            lambda: all(code in self.watcher.codes(user) for user in self.users),
            within_s=within_s,
            what=lambda: f"all say {code}: {self.watcher.seen}",
        )
        self.held(f"all say {code} within {within_s:g} s")

    async def dials(self) -> list[int]:
        """When somebody dialled, since the fault began (Unix ms)."""
        dials: list[int] = (await self.counters())["dialsAtMs"][len(self.before["dialsAtMs"]) :]
        return dials

    async def said_once(self) -> None:
        """One line of the log per channel, not one per session."""
        bridge = self.world.bridge
        await eventually(lambda: bridge.lines("channel lost") > self.losses, within_s=2, what="the loss is said")
        assert bridge.lines("channel lost") == self.losses + 1
        self.held("one line in the log for all sessions")

    async def positions_stay(self, seconds: float, *, live: bool = False) -> None:
        """What the victim holds does not vanish in any reading for so long."""
        held = {row["id"] for row in self.record()["positions"]}
        assert held
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            record = self.record()
            shown = {row["id"] for row in record["positions"]}
            assert shown == held, f"positions vanished: {held} -> {shown}, {record['status']}"
            assert not live or record["status"] == "live"
            await self.watch_for(0.02)  # a sample; nothing may vanish in any of them
        self.held("no position vanishes")

    async def judged(self) -> None:
        await self.executions_known(within_s=8)

    async def executions_known(self, *, within_s: float) -> None:
        """As many executions were noted as were made; never more."""

        async def apart() -> tuple[int, int]:
            now, before = (each["executionsByAccount"] for each in (await self.counters(), self.before))
            made = sum(now.get(account, 0) - before.get(account, 0) for account in self.world.accounts.values())
            return made, round(await self.metric(COUNT % "fills" + "}"))

        async def known() -> bool:
            made, noted = await apart()
            return made == noted

        try:
            await eventually(known, within_s=within_s, every_s=0.1, what="executions are known")
        except AssertionError:
            made, noted = await apart()
            raise AssertionError(f"{made} executions were made, {noted} were noted") from None
        self.held("every execution known once")


@asynccontextmanager
async def ctrader_scene(
    folder: Path,
    *,
    users: int = USERS,
    bridge_module: str = "tests.support.quick_bridge",
    simulator_arguments: tuple[str, ...] = (),
    **env: str,
) -> AsyncIterator[CtraderScene]:
    """Everything running, all sessions live, all but one holding something, prices standing still."""
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(fault_proxy())
        bridge_env = {
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{line.port}",
            "LOG_FORMAT": "json",
            "CACHE_FLUSH_INTERVAL": "0.25",
            **env,
        }
        world = await stack.enter_async_context(
            running_world(
                folder,
                users=users,
                bridge_env=bridge_env,
                bridge_module=bridge_module,
                simulator_arguments=simulator_arguments,
            )
        )
        line.target = world.ports["ctrader"]
        await world.sim("POST", "/prices", {"freeze": True})
        await world.start_all()
        await world.all_live(within_s=20)
        watcher = stack.enter_context(Watcher(world.valkey.url, {user: record_key(user) for user in world.users}, line))
        scene = CtraderScene(world=world, watcher=watcher, line=line)
        await scene.begin()
        await _hold_something(scene)
        await scene.equal(within_s=5)
        yield scene
        assert watcher.samples


async def _hold_something(scene: CtraderScene) -> None:
    for user in scene.users:
        if user == EMPTY:
            continue
        path = f"/accounts/{scene.world.accounts[user]}/order"
        for side in ("buy", "sell"):
            await scene.world.sim("POST", path, {**MARKET, "side": side, "units": 3000})
        await scene.world.sim("POST", path, PENDING)
