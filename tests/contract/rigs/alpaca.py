"""The Alpaca rig: the simulator in this process, and the adapter with its timers ten times as fast."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Credential, Environment
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.alpaca import Simulator, SimulatorSettings
from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.oauth.consent import decide
from core.money import json_number
from core.secret import Secret
from tests.contract.rigs.rig import BACK, Trait

METRICS = {
    "lost": "lost_events",
    "foreign": "foreign_events",
    "quarantined": "quarantined",
    "unknown": "unknown_messages",
    "garbage": "garbage_frames",
}
UNITS = {"DOGE/USD": Decimal(2_000)}  # an order of crypto is worth ten dollars or more


def fast_settings(sim: Simulator, **changes: Any) -> AlpacaSettings:
    """Production settings at ten times the speed (DESIGN §14)."""
    paper, live = (f"http://127.0.0.1:{port}" for port in (sim.ports.alpaca, sim.ports.alpaca_live))
    values: dict[str, Any] = {
        "paper_url": paper,
        "live_url": live,
        "data_url": f"ws://127.0.0.1:{sim.ports.alpaca}",
        "client_id": sim.settings.client_id,
        "client_secret": Secret(sim.settings.client_secret),
        "auth_url": f"{live}/oauth/authorize",
        "token_url": f"{live}/oauth/token",
        "requests_per_minute": 1_800,
        "requests_reserved": 150,
        "aging_s": 1.0,
        "queue_timeout_s": 3.0,
        "request_timeout_s": 2.0,
        "token_timeout_s": 2.0,
        "throttle_s": 0.5,
        "connect_timeout_s": 2.0,
        "dials_per_second": 50,
        "backoff_first_s": 0.1,
        "backoff_cap_s": 1.0,
        "stable_s": 6.0,
        "slot_wait_s": 0.5,
        "ping_s": 0.5,
        "pong_timeout_s": 0.5,
        "auth_timeout_s": 2.0,
        "data_retry_s": 0.5,
        "poll_s": 1.0,
        "slow_poll_s": 3.0,
        "reading_delay_s": 0.1,
        "reading_gap_s": 0.2,
        "lag_first_s": 0.05,
        "lag_cap_s": 0.2,
        "order_lag_s": 0.5,
        "activity_lag_s": 3.0,
        "confirm_delay_s": 0.05,
        "repair_delay_s": 0.1,
    }
    return AlpacaSettings(**{**values, **changes})


class AlpacaRig:
    """Implements `BrokerRig`."""

    environment = Environment.DEMO
    lacks: Mapping[Trait, str] = {
        Trait.SEVERAL_ACCOUNTS: "a key pair or a token covers one account in each environment",
        Trait.REFRESH: "tokens have no end and there is nothing to renew them with",
        Trait.PROTECTION: "exits are orders of their own, a position has none",
        Trait.HEDGING: "one net position per symbol",
        Trait.CASH_EVENTS: "the stream tells of orders only",
    }
    required = ("keyId", "secretKey", "environment")
    instruments = ("AAPL", "MSFT", "ETH/USD")
    longs = ("PENY", "DOGE/USD", "AAPL350119C00240000")
    detection_s = 5.0
    absurdities = ("negative_qty", "nan_price", "inf_price", "huge_money", "not_a_number", "year_1970", "year_2100")

    def __init__(self, sim: Simulator, tasks: Tasks, **changes: Any) -> None:
        self.sim = sim
        self.act = sim.actions
        self.world = sim.services.world
        self.broker = AlpacaBroker(fast_settings(sim, **changes), SystemClock(), random.Random(7), tasks)

    # ------------------------------------------------------------ who

    def entry(self, user: int) -> dict[str, object]:
        return dict(self.sim.credentials()[f"user-{user}"]["alpaca"])

    def credential(self, user: int, **changes: object) -> Credential:
        return self.broker.read_credential(
            f"grant-{user}", {**self.entry(user), "accountId": self.account(user), **changes}
        )

    def wide_credential(self, user: int) -> Credential:
        token = {"accessToken": f"sim-alpaca-oauth-{user}", "accountId": self.account(user)}
        environment = "live" if self.environment is Environment.LIVE else "paper"
        return self.broker.read_credential(f"consent-{user}", {**token, "environment": environment})

    def account(self, user: int) -> str:
        return self._account_of(user, "paper")

    def account_elsewhere(self, user: int) -> str:
        return self._account_of(user, "live")

    def _account_of(self, user: int, environment: str) -> str:
        return next(one.id for one in self.world.of_user[user] if one.environment == environment)

    def user_with_several(self) -> int:
        raise AssertionError("nobody has")

    def user_with_one(self) -> int:
        return 1

    async def approve(self, url: str, user: int) -> str:
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["redirect_uri"] == BACK
        return decide(self.sim.services, {**asked, "user": str(user), "decision": "approve"})

    # ------------------------------------------------------------ what happens at the broker

    def truth(self, account: str) -> Mapping[str, Any]:
        return self.act.truth(account)

    def executions(self, account: str) -> list[dict[str, Any]]:
        rows, held = [], self._held(account)
        page: list[dict[str, Any]] = self.world.activities(held, {"direction": "asc", "page_size": "100"}, "FILL")
        while page:
            rows += page
            query = {"direction": "asc", "page_size": "100", "page_token": page[-1]["id"]}
            page = self.world.activities(held, query, "FILL")
        return [
            {
                "id": row["id"].partition("::")[2],
                "orderId": row["order_id"],
                "symbol": row["symbol"],
                "side": "sell" if row["side"].startswith("sell") else "buy",
                "units": json_number(Decimal(row["qty"])),
                "price": json_number(Decimal(row["price"])),
            }
            for row in rows
        ]

    def open(self, account: str, instrument: str, *, buy: bool = True) -> str:
        done = self.act.order(
            account, symbol=instrument, side="buy" if buy else "sell", units=UNITS.get(instrument, Decimal(2))
        )
        assert done["status"] == "filled", done
        return str(self.world.asset(instrument)["id"])

    def close(self, account: str, position: str) -> None:
        done = self.act.close(account, position)
        assert done["status"] == "filled", done

    def place(self, account: str, instrument: str) -> str:
        done = self.act.order(
            account, symbol=instrument, side="buy", units=Decimal(1), type="limit", limit_price=Decimal("30.5")
        )
        return str(done["orderId"])

    def amend(self, account: str, order: str) -> str:
        done = self.act.replace(account, order, limit_price=Decimal("29.5"))
        self._settle()
        return str(done["orderId"])

    def cancel(self, account: str, order: str) -> None:
        self.act.cancel(account, order)
        self._settle()

    def fill_partly(self, account: str, instrument: str) -> str:
        quote = self.act.quotes()["symbols"][instrument]
        bid, ask = Decimal(str(quote["bid"])), Decimal(str(quote["ask"]))
        self.act.quote(instrument, bid=bid, ask=ask, bid_size=Decimal(4), ask_size=Decimal(4))
        done = self.act.order(account, symbol=instrument, side="buy", units=Decimal(10), type="limit", limit_price=ask)
        assert done["filledUnits"] == 4, done
        return str(done["orderId"])

    def deposit(self, account: str, amount: int) -> None:
        self.act.deposit(account, Decimal(amount))

    def protect(self, account: str, position: str) -> None:
        raise AssertionError("a position has no stop loss of its own")

    def move(self, instrument: str) -> None:
        price = Decimal(str(self.act.quotes()["symbols"][instrument]["price"]))
        self.act.quote(instrument, price=price + Decimal("0.25"))

    def _held(self, account: str) -> Account:
        return self.world.account(account)

    def _settle(self) -> None:
        """What a broker carries out a moment later has happened."""
        self.world.advance(self.sim.services.clock.now_ms())

    # ------------------------------------------------------------ what goes wrong

    def cut(self) -> None:
        self.act.fault("N40", holdSlot=False)

    def end_account_session(self, account: str) -> None:
        self.act.fault("N02", accounts=[account], stream="trading")

    def expire(self, user: int) -> None:
        raise AssertionError("tokens have no end")

    def revoke(self, user: int) -> None:
        self.act.revoke(user)

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        with self._fault("N03", newConnections=True), self._fault("SLOW_REST", delaySeconds=30):
            yield

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        with self._fault("N10", target="both", status=502):
            self.cut()
            yield

    @asynccontextmanager
    async def throttle(self) -> AsyncIterator[None]:
        with self._fault("N28", retryAfter=1):
            yield

    @asynccontextmanager
    async def maintenance(self, seconds: int) -> AsyncIterator[None]:
        with self._fault("N10", target="both", status=503, retryAfter=seconds):
            yield

    @asynccontextmanager
    async def trusting(self) -> AsyncIterator[None]:
        yield  # it always checks

    @asynccontextmanager
    async def lose(self, account: str) -> AsyncIterator[None]:
        with self._fault("N21", accounts=[account]):
            yield

    @asynccontextmanager
    async def duplicate(self) -> AsyncIterator[None]:
        with self._fault("N19", afterListen=True):
            yield

    @asynccontextmanager
    async def reorder(self) -> AsyncIterator[None]:
        with self._fault("N20"):
            yield

    @asynccontextmanager
    async def unknown_values(self, account: str) -> AsyncIterator[None]:
        with self._fault("N15", accounts=[account], field="status"):
            yield

    @asynccontextmanager
    async def absurd_values(self, account: str, variant: str) -> AsyncIterator[None]:
        with self._fault("N17", accounts=[account], variant=variant):
            yield

    @asynccontextmanager
    async def absurd_snapshot(self, account: str) -> AsyncIterator[None]:
        with self._fault("ODD_ANSWER", accounts=[account], variant="huge_money", count=None):
            yield

    @asynccontextmanager
    async def broken_snapshot(self, account: str, variant: str) -> AsyncIterator[None]:
        with self._fault("N23", accounts=[account], variant=variant):
            yield

    @asynccontextmanager
    async def late_snapshot(self, account: str) -> AsyncIterator[None]:
        """The answers are made at once and sent late; in between something is bought."""
        before = self._readings(account)
        with self._fault("N22", accounts=[account], lagSeconds=0, delaySeconds=0.3, parts=["positions"]):
            trade = asyncio.ensure_future(self._trade_after(account, before))
            try:
                yield
                await trade
            finally:
                trade.cancel()

    @asynccontextmanager
    async def lagging(self, account: str) -> AsyncIterator[None]:
        with self._fault("N22", accounts=[account], lagSeconds=0.3):
            yield

    async def _trade_after(self, account: str, before: int) -> None:
        while self._readings(account) == before:
            await asyncio.sleep(0.005)  # until the reading is asked for
        await asyncio.sleep(0.1)  # the answer is made, and waits
        self.open(account, self.instruments[len(self.executions(account))])

    def _readings(self, account: str) -> int:
        return int(self.act.counters()["requests"].get("GET /v2/positions", 0))

    def unknown_messages(self) -> None:
        self.act.fault("N16", count=3)

    def garbage(self) -> None:
        self.act.fault("N14", count=3)

    def foreign(self, account: str) -> None:
        self.act.fault("N18", accounts=[account])

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
        streams = self.sim.services.streams
        return sum(streams.is_trading(one) and one.account_id == account for one in streams.clients())

    def dials(self) -> int:
        return len(self.act.counters()["dialsAtMs"])

    def refreshes(self) -> int:
        return 0

    def violations(self) -> int:
        return int(self.act.counters()["budgetViolations"])

    def metric(self, what: str) -> float:
        return self.broker.metrics().get(METRICS[what], 0.0)


@asynccontextmanager
async def alpaca_rig(world: Mapping[str, Any] | None = None, **changes: Any) -> AsyncIterator[AlpacaRig]:
    """A simulator with frozen prices and a strict limiter, and an adapter; no task may crash meanwhile.

    `world`: settings of the simulator, `changes`: of the adapter.
    """
    tasks = Tasks("rig")
    settings = {
        "users": 4,
        "prices": "frozen",
        "requests_per_minute": 2_000,
        "slot_seconds": 0.4,
        "partial_fill_share": 0.0,
        **(world or {}),
    }
    async with Simulator(SimulatorSettings(**settings)) as sim:
        rig = AlpacaRig(sim, tasks, **changes)
        try:
            yield rig
        finally:
            await rig.broker.close()
    assert tasks.crashes == 0
