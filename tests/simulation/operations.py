"""What users, traders, markets and operators do, drawn by the seed: commands, trades, prices, readings, deploys.

Commands are remembered by their outcome: what was accepted last must be what is stored, and what had no answer may be
either. A user gives one command after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bridge.brokers.base import Environment
from bridge.sessions.views import AccountChoice, NoCredentials
from bridge.simulator.alpaca.refusals import ApiRefusal
from bridge.simulator.ctrader.actions import Refusal
from core.errors import Conflict, InvalidInput, NotFound, Unavailable
from core.orders import OrderType, Side

if TYPE_CHECKING:
    from tests.simulation.processes import BridgeProcess
    from tests.simulation.world import World

PAIRS = ("EURUSD", "GBPUSD", "USDJPY")
STOCKS = ("AAPL", "MSFT", "TSLA")
COMMAND_WITHIN_S = 12.0
Row = tuple[str, str, str]  # user key, broker, account id


class Commands:
    """`wanted`: by row, what the last accepted command said; both values where that is not known. `stopped_at`: loop
    seconds of the acknowledgement."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.wanted: dict[Row, set[bool]] = {}
        self.stopped_at: dict[Row, float] = {}
        self.busy: set[tuple[str, str]] = set()

    async def start(self, process: BridgeProcess, user: str, broker: str, account_id: str | None) -> None:
        environment = self._environment(broker, account_id)

        async def give() -> None:
            view = await process.service.start(
                user_id=user, broker=broker, account_id=account_id, environment=environment
            )
            self._accepted((view.user_key, broker, view.account_id or ""), True)

        await self._command(process, user, broker, give, {True})

    async def stop(self, process: BridgeProcess, user: str, broker: str, account_id: str | None) -> None:
        async def give() -> None:
            for view in await process.service.stop(user_id=user, broker=broker, account_id=account_id):
                self._accepted((view.user_key, broker, view.account_id or ""), False)

        await self._command(process, user, broker, give, {False})

    async def _command(
        self, process: BridgeProcess, user: str, broker: str, give: Callable[[], Any], asked: set[bool]
    ) -> None:
        """Give it, as somebody who waits a while for the answer."""
        world = self._world
        where = (world.user_keys.keys(user).canonical, broker)
        if where in self.busy:
            return
        self.busy.add(where)
        unclear = {row: held | asked for row, held in self.wanted.items() if row[:2] == where}
        answer: asyncio.Future[str] = world.loop.create_future()

        async def ask() -> None:
            outcome = "unclear"
            try:
                await give()
                outcome = "accepted"
            except (NoCredentials, AccountChoice, InvalidInput, NotFound, Conflict) as refusal:
                outcome = type(refusal).__name__
            except Unavailable:
                outcome = "unavailable"
            finally:
                if not process.dead:
                    world.loop.call_soon(settle, outcome, context=world.context)

        def settle(outcome: str) -> None:
            if not answer.done():
                answer.set_result(outcome)

        process.spawn(ask(), "command")
        try:
            async with asyncio.timeout(COMMAND_WITHIN_S):
                outcome = await answer
        except TimeoutError:
            outcome = "no answer"
        world.note("command", process.name, user, broker, sorted(asked), outcome)
        world.sometimes(f"command {outcome}")
        if outcome in ("unavailable", "no answer", "unclear"):
            self.wanted.update(unclear)
            if not unclear or outcome == "no answer" or world.knobs.delays:
                world.loose.add(where)  # it may be carried out at any time
        self.busy.discard(where)

    def _accepted(self, row: Row, wanted: bool) -> None:
        self.wanted[row] = {wanted}
        self.stopped_at.pop(row, None)
        if not wanted:
            self.stopped_at[row] = self._world.loop.time()

    def _environment(self, broker: str, account_id: str | None) -> Environment | None:
        if account_id is None:
            return None
        brokers = self._world.brokers
        if broker == "ctrader":
            live = brokers.ctrader.services.world.accounts[int(account_id)].live
        else:
            live = brokers.alpaca.services.world.accounts[account_id].environment == "live"
        return Environment.LIVE if live else Environment.DEMO


class Operations:
    """One step: `await act()` does one of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self.commands = world.commands
        self._menu: list[tuple[int, Callable[[], Any]]] = [
            (20, self._start),
            (7, self._stop),
            (30, self._trade),
            (6, self._money),
            (10, self._price),
            (10, self._read),
            (3, self._deploy),
            (2, self._grow),
            (2, self._move),
            (2, self._drain),
        ]

    async def act(self) -> None:
        """Draw an operation and do it."""
        acts = self._rng.choices([act for _, act in self._menu], weights=[weight for weight, _ in self._menu])
        outcome = acts[0]()
        if outcome is not None:
            await outcome

    def everybody(self) -> list[tuple[str, str]]:
        """All users at all brokers."""
        knobs = self._world.knobs
        return [(f"user-{number}", broker) for broker in knobs.brokers for number in range(1, knobs.users + 1)]

    # ------------------------------------------------------------ commands

    def _someone(self) -> tuple[BridgeProcess, str, str] | None:
        serving = self._world.serving
        if not serving:
            return None
        return (self._rng.choice(serving), *self._rng.choice(self.everybody()))

    def _account(self, user: str, broker: str) -> str | None:
        """Mostly the default one."""
        if self._rng.random() < 0.6:
            return None
        return self._rng.choice(self._accounts(user, broker))

    def _accounts(self, user: str, broker: str) -> list[str]:
        number, brokers = int(user.partition("-")[2]), self._world.brokers
        if broker == "ctrader":
            return [str(each.id) for each in brokers.ctrader.services.world.of_user[number]]
        paper = [each for each in brokers.alpaca.services.world.of_user[number] if each.environment != "live"]
        return [each.id for each in paper]

    async def _start(self) -> None:
        if someone := self._someone():
            process, user, broker = someone
            await self.commands.start(process, user, broker, self._account(user, broker))
            if self._rng.random() < 0.25:  # in the middle of its login
                await asyncio.sleep(self._rng.uniform(0.0, 6 * self._world.knobs.latency_s))
                await self.commands.stop(process, user, broker, None)

    async def _stop(self) -> None:
        if someone := self._someone():
            process, user, broker = someone
            await self.commands.stop(process, user, broker, None)

    async def start_all(self) -> None:
        """Everybody starts, at any process."""
        for user, broker in self.everybody():
            await self.commands.start(self._rng.choice(self._world.serving), user, broker, None)

    # ------------------------------------------------------------ at the brokers

    def _trade(self) -> None:
        user, broker = self._rng.choice(self.everybody())
        account_id = self._rng.choice(self._accounts(user, broker))
        try:
            self._trade_ctrader(int(account_id)) if broker == "ctrader" else self._trade_alpaca(account_id)
        except (Refusal, ApiRefusal, NotFound, InvalidInput):
            self._world.sometimes("trade refused")

    def _trade_ctrader(self, account_id: int) -> None:
        rng, actions = self._rng, self._world.brokers.ctrader.actions
        truth = actions.truth(account_id)
        side = rng.choice([Side.BUY, Side.SELL])
        units = Decimal(rng.choice([1000, 2000, 5000]))
        dice = rng.random()
        if dice < 0.4 or not (truth["positions"] or truth["orders"]):
            actions.order(account_id, symbol=rng.choice(PAIRS), side=side, units=units)
        elif dice < 0.6:
            price = Decimal("1.0") if side is Side.BUY else Decimal("1.5")
            actions.order(account_id, symbol="EURUSD", side=side, units=units, type=OrderType.LIMIT, limit_price=price)
        elif truth["positions"] and dice < 0.9:
            held = rng.choice(truth["positions"])
            half = Decimal(str(held["units"])) / 2
            part = half if half % 1000 == 0 and rng.random() < 0.3 else None
            actions.close_position(account_id, int(held["id"]), part)
        elif truth["orders"]:
            actions.cancel(account_id, int(rng.choice(truth["orders"])["id"]))

    def _trade_alpaca(self, account_id: str) -> None:
        rng, actions = self._rng, self._world.brokers.alpaca.actions
        truth = actions.truth(account_id)
        symbol, side = rng.choice(STOCKS), rng.choice(["buy", "buy", "sell"])
        dice = rng.random()
        if dice < 0.5 or not (truth["positions"] or truth["orders"]):
            actions.order(account_id, symbol=symbol, side=side, units=Decimal(rng.randint(1, 9)))
        elif dice < 0.65:
            actions.order(
                *(account_id,),
                symbol=symbol,
                side="buy",
                units=Decimal(rng.randint(1, 9)),
                type="limit",
                limit_price=Decimal(10),
            )
        elif truth["positions"] and dice < 0.9:
            actions.close(account_id, rng.choice(truth["positions"])["symbol"])
        elif truth["orders"]:
            actions.cancel(account_id, rng.choice(truth["orders"])["id"])

    def _money(self) -> None:
        user, broker = self._rng.choice(self.everybody())
        account_id = self._rng.choice(self._accounts(user, broker))
        amount = Decimal(self._rng.choice([500, 100, -50]))
        try:
            if broker == "ctrader":
                self._world.brokers.ctrader.actions.deposit(int(account_id), amount)
            else:
                self._world.brokers.alpaca.actions.deposit(account_id, amount)
                self._world.ledgers.look("alpaca", account_id)
        except (Refusal, ApiRefusal, InvalidInput):
            self._world.sometimes("trade refused")

    def _price(self) -> None:
        rng, brokers = self._rng, self._world.brokers
        if "ctrader" in self._world.knobs.brokers:
            bid = Decimal(rng.randint(10_500, 11_200)) / 10_000
            brokers.ctrader.actions.quote("EURUSD", bid=bid, ask=bid + Decimal("0.0002"))
        else:
            price = Decimal(rng.randint(100, 300))
            brokers.alpaca.actions.quote(rng.choice(STOCKS), price=price)

    # ------------------------------------------------------------ readers and operators

    async def _read(self) -> None:
        """Somebody reads a record at any process."""
        if someone := self._someone():
            process, user, broker = someone
            keys = self._world.user_keys.keys(user)
            process.spawn(self._world.readings.read(process, f"{broker}_account_{keys.canonical}"), "read")
            if self._rng.random() < 0.3:
                process.context.copy().run(process.service.used, keys.canonical, broker)

    async def _deploy(self) -> None:
        """A process is told to end; mostly another one has been started before."""
        world = self._world
        if not world.serving:
            return
        leaving = self._rng.choice(world.serving)
        if self._rng.random() < 0.7 and len(world.alive) < world.knobs.most_processes:
            world.spawn()
            await asyncio.sleep(self._rng.uniform(0, 3))
        if len(world.alive) > 1 and leaving in world.serving:
            world.note("drain", leaving.name)
            leaving.spawn(leaving.drain(), "drain")

    async def _grow(self) -> None:
        if len(self._world.alive) < self._world.knobs.most_processes:
            self._world.spawn()

    def _move(self) -> Any:
        """An operator wants a user's sessions elsewhere."""
        someone = self._someone()
        if someone is None:
            return None
        _, user, broker = someone
        key = self._world.user_keys.keys(user).canonical
        return self._ask_fleet(self._world.fleet.move(key, broker=broker, account_id=None, to=None), "move")

    def _drain(self) -> Any:
        """An operator wants a process empty, or takes it back."""
        someone = self._someone()
        if someone is None:
            return None
        draining = self._rng.random() < 0.5
        return self._ask_fleet(self._world.fleet.drain(someone[0].standing.owner, draining=draining), "drain")

    async def _ask_fleet(self, work: Any, what: str) -> None:
        try:
            await work
            self._world.sometimes(f"operator: {what}")
        except (NotFound, Conflict):
            self._world.sometimes(f"operator: {what} refused")
