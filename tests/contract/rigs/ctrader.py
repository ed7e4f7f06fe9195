"""The cTrader rig: the simulator in this process, and the adapter with its timers ten times as fast."""

import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bridge.brokers.base import Credential, Environment
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.ctrader import Simulator, SimulatorSettings
from bridge.simulator.ctrader.consent import decide
from core.money import json_number
from core.orders import OrderType, Side
from core.paper_trader import Level, OrderChanges
from core.secret import Secret
from tests.contract.rigs.rig import Trait

METRICS = {
    "lost": "lost_events",
    "foreign": "foreign_events",
    "quarantined": "quarantined",
    "unknown": "unknown_payload_types",
    "garbage": "garbage_frames",
}
STEP = Decimal("0.0001")
SERVERS = ("Sim-demo", "Simex-demo")


def fast_settings(sim: Simulator, **changes: Any) -> CtraderSettings:
    """Production settings at ten times the speed (DESIGN §14)."""
    values: dict[str, Any] = {
        "client_id": sim.settings.client_id,
        "client_secret": Secret(sim.settings.client_secret),
        "live_url": f"ws://127.0.0.1:{sim.ports.ctrader_live}",
        "demo_url": f"ws://127.0.0.1:{sim.ports.ctrader}",
        "auth_url": f"http://127.0.0.1:{sim.ports.admin}/apps/auth",
        "token_url": f"http://127.0.0.1:{sim.ports.admin}/apps/token",
        "token_timeout_s": 2.0,
        "requests_per_second": 450,
        "history_requests_per_second": 40,
        "heartbeat_s": 1.0,
        "probe_after_s": 0.5,
        "probe_timeout_s": 0.5,
        "dials_per_second": 50,
        "backoff_first_s": 0.1,
        "backoff_cap_s": 1.0,
        "stable_s": 6.0,
        "auth_timeout_s": 2.0,
        "snapshot_timeout_s": 2.0,
        "market_timeout_s": 2.0,
        "reconcile_timeout_s": 3.0,
        "logout_timeout_s": 1.0,
        "confirm_delay_s": 0.05,
        "repair_delay_s": 0.1,
        "history_lag_s": 0.3,
        "pnl_check_every_s": 0.0,
        "listing_max_age_s": 0.0,
        "maintenance_default_s": 0.3,
        "app_blocked_s": 1.0,
        "app_refused_s": 0.5,
        "connection_limit_s": 1.0,
        "idle_close_s": 3.0,
    }
    return CtraderSettings(**{**values, **changes})


class CtraderRig:
    """Implements `BrokerRig`."""

    environment = Environment.DEMO
    lacks: Mapping[Trait, str] = {
        Trait.LAGGING_READS: "snapshots come over the connection of the events, in their order",
    }
    required = ("accessToken", "environment")
    instruments = ("EURUSD", "USDJPY", "GBPUSD")
    longs = ()
    detection_s = 5.0
    absurdities = ("negative_volume", "nan_price", "inf_price", "huge_money", "year_1970", "year_2100")

    def __init__(self, sim: Simulator, tasks: Tasks, **changes: Any) -> None:
        self.sim = sim
        self.act = sim.actions
        self.broker = CtraderBroker(fast_settings(sim, **changes), SystemClock(), random.Random(7), tasks)

    # ------------------------------------------------------------ who

    def entry(self, user: int) -> dict[str, object]:
        held = self.sim.credentials()[f"user-{user}"]["ctrader"]
        return {name: value for name, value in held.items() if name != "accountId"}

    def credential(self, user: int, **changes: object) -> Credential:
        entry = {**self.entry(user), "accountId": self.account(user), **changes}
        return self.broker.read_credential(f"grant-{user}", entry)

    def wide_credential(self, user: int) -> Credential:
        return self.credential(user)

    def account(self, user: int) -> str:
        return str(1_000_000 + 10 * user + 1)

    def account_elsewhere(self, user: int) -> str:
        assert user % 2 == 1
        return str(1_000_000 + 10 * user + 3)

    def user_with_several(self) -> int:
        return 2

    def user_with_one(self) -> int:
        return 1

    async def approve(self, url: str, user: int) -> str:
        asked = dict(parse_qsl(urlsplit(url).query))
        return decide(self.sim.services, {**asked, "user": str(user), "decision": "approve"})

    # ------------------------------------------------------------ what happens at the broker

    def truth(self, account: str) -> Mapping[str, Any]:
        return self.act.truth(int(account))

    def executions(self, account: str) -> list[dict[str, Any]]:
        world = self.sim.services.world
        held = world.account(int(account))
        return [
            {
                "id": str(one.id),
                "orderId": str(one.order_id),
                "symbol": world.symbol(held, one.instrument_id).terms.name,
                "side": one.side.value,
                "units": json_number(one.filled_units),
                "price": json_number(one.price),
            }
            for one in world.engine.deals(held.key)
        ]

    def open(self, account: str, instrument: str, *, buy: bool = True) -> str:
        side = Side.BUY if buy else Side.SELL
        done = self.act.order(int(account), symbol=instrument, side=side, units=Decimal(10_000))
        return str(done["positionId"])

    def close(self, account: str, position: str) -> None:
        self.act.close_position(int(account), int(position))

    def place(self, account: str, instrument: str) -> str:
        done = self.act.order(
            int(account),
            symbol=instrument,
            side=Side.BUY,
            units=Decimal(10_000),
            type=OrderType.LIMIT,
            limit_price=Decimal("0.5"),
        )
        return str(done["orderId"])

    def amend(self, account: str, order: str) -> str:
        self.act.amend(int(account), int(order), OrderChanges(limit_price=Decimal("0.4")))
        return order

    def fill_partly(self, account: str, instrument: str) -> str:
        for server in SERVERS:
            quote = self.act.quotes()["servers"][server][instrument]
            bid, ask = Decimal(str(quote["bid"])), Decimal(str(quote["ask"]))
            bids, asks = [Level(bid, Decimal(4_000))], [Level(ask, Decimal(4_000))]
            self.act.quote(instrument, bids=bids, asks=asks, server=server)
        done = self.act.order(
            int(account),
            symbol=instrument,
            side=Side.BUY,
            units=Decimal(10_000),
            type=OrderType.LIMIT,
            limit_price=ask,
        )
        return str(done["orderId"])

    def cancel(self, account: str, order: str) -> None:
        self.act.cancel(int(account), int(order))

    def deposit(self, account: str, amount: int) -> None:
        self.act.deposit(int(account), Decimal(amount))

    def protect(self, account: str, position: str) -> None:
        self.act.protect(int(account), int(position), stop_loss=Decimal("0.5"))

    def move(self, instrument: str) -> None:
        for server in SERVERS:
            quote = self.act.quotes()["servers"][server][instrument]
            bid, ask = Decimal(str(quote["bid"])) + STEP * 10, Decimal(str(quote["ask"])) + STEP * 10
            self.act.quote(instrument, bid=bid, ask=ask, server=server)

    # ------------------------------------------------------------ what goes wrong

    def cut(self) -> None:
        self.act.fault("N40")

    def end_account_session(self, account: str) -> None:
        self.act.fault("N33", accounts=[int(account)])

    def expire(self, user: int) -> None:
        self.act.expire(user)

    def revoke(self, user: int) -> None:
        self.act.revoke(user)

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        with self._fault("N03"):
            yield

    @asynccontextmanager
    async def throttle(self) -> AsyncIterator[None]:
        with self._fault("N28", requests=["ProtoOAAccountAuthReq", "ProtoOATraderReq", "ProtoOAReconcileReq"]):
            yield

    @asynccontextmanager
    async def maintenance(self, seconds: int) -> AsyncIterator[None]:
        with self._fault("N27", endsInSeconds=seconds):
            yield

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        with self._fault("N10", status=503):
            self.cut()
            yield

    @asynccontextmanager
    async def trusting(self) -> AsyncIterator[None]:
        with self._fault("N35"):
            yield

    @asynccontextmanager
    async def lose(self, account: str) -> AsyncIterator[None]:
        with self._fault("N21", accounts=[int(account)]):
            yield

    @asynccontextmanager
    async def duplicate(self) -> AsyncIterator[None]:
        with self._fault("N19", afterAuth=True):
            yield

    @asynccontextmanager
    async def reorder(self) -> AsyncIterator[None]:
        with self._fault("N20"):
            yield

    @asynccontextmanager
    async def unknown_values(self, account: str) -> AsyncIterator[None]:
        with self._fault("N15", accounts=[int(account)]):
            yield

    @asynccontextmanager
    async def absurd_values(self, account: str, variant: str) -> AsyncIterator[None]:
        with self._fault("N17", accounts=[int(account)], variant=variant):
            yield

    @asynccontextmanager
    async def absurd_snapshot(self, account: str) -> AsyncIterator[None]:
        with self._fault("N17", accounts=[int(account)], variant="huge_money", count=None):
            yield

    @asynccontextmanager
    async def broken_snapshot(self, account: str, variant: str) -> AsyncIterator[None]:
        with self._fault("N23", accounts=[int(account)], variant=variant):
            yield

    @asynccontextmanager
    async def late_snapshot(self, account: str) -> AsyncIterator[None]:
        with self._fault("N22", accounts=[int(account)]):
            yield

    @asynccontextmanager
    async def lagging(self, account: str) -> AsyncIterator[None]:
        raise AssertionError("nothing that is read lags")
        yield

    def unknown_messages(self) -> None:
        self.act.fault("N16", count=3)

    def garbage(self) -> None:
        self.act.fault("N14", count=3)

    def foreign(self, account: str) -> None:
        self.act.fault("N18", accounts=[int(account)])

    @contextmanager
    def _fault(self, fault: str, **parameters: Any) -> Iterator[None]:
        number = self.act.fault(fault, **parameters)
        try:
            yield
        finally:
            if any(active["number"] == number for active in self.act.active_faults()):
                self.act.clear_faults(number)

    # ------------------------------------------------------------ what was seen there

    def logins_of(self, account: str) -> int:
        return int(self.act.counters()["authAttemptsByAccount"].get(account, 0))

    def sessions_of(self, account: str) -> int:
        return int(next(row["connections"] for row in self.act.accounts() if row["accountId"] == account))

    def dials(self) -> int:
        return len(self.act.counters()["dialsAtMs"])

    def refreshes(self) -> int:
        return int(self.act.counters()["refreshes"])

    def violations(self) -> int:
        return int(self.act.counters()["budgetViolations"])

    def metric(self, what: str) -> float:
        return self.broker.metrics().get(METRICS[what], 0.0)


@asynccontextmanager
async def ctrader_rig(world: Mapping[str, Any] | None = None, **changes: Any) -> AsyncIterator[CtraderRig]:
    """A simulator with frozen prices and a strict limiter, and an adapter; no task may crash meanwhile.

    `world`: settings of the simulator, `changes`: of the adapter.
    """
    tasks = Tasks("rig")
    settings = {"users": 4, "prices": "frozen", "requests_per_second": 500, "ctrader_tls_port": None, **(world or {})}
    async with Simulator(SimulatorSettings(**settings)) as sim:
        rig = CtraderRig(sim, tasks, **changes)
        try:
            yield rig
        finally:
            await rig.broker.close()
    assert tasks.crashes == 0
