"""`python -m scripts.benchmarks.feeding simulate ...`: the simulator, with a tap that feeds prices to chosen clients.

Several bridges can log in to it and are then fed in turns: each the same events, at the same pace, one account after
the other. Its admin HTTP gets four more routes:

- `POST /sim/feed/arm {"name", "ports"}`: the clients that dialled from these ports are that arm from now on; answers
  with its connections and accounts.
- `POST /sim/feed {"arm", "perSecond"}`: feed this arm so many events a second from now on (0: nobody), evenly, in
  steps of 5 ms; answers with the number of events sent to it so far.
- `GET /sim/feed/symbols`: the ids of what is fed, by server.
- `POST /sim/feed/hold {"users", "each"}`: the first `users` users hold `each` positions on their first account.

Must be started with `--prices frozen`, so that nothing but the tap sends prices.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web

import bridge.simulator.running
from bridge.cli import main
from bridge.simulator.admin_http import read_json, send_json
from bridge.simulator.alpaca.actions import Actions as AlpacaActions
from bridge.simulator.ctrader.actions import Actions
from bridge.simulator.ctrader.connection import Connection
from core.orders import Side
from scripts.benchmarks.frames import price_message

STEP_S = 0.005
HELD = ("EURUSD", "USDJPY")
SIZE = Decimal(1000)
AT_ONCE = 100  # positions opened between two turns of the loop


@dataclass(slots=True)
class Target:
    """One account of an arm, with the symbols it is fed in turn: (id, first price, step) in 1/100000."""

    connection: Connection
    account: int
    symbols: Iterator[tuple[int, int, int]]


@dataclass(slots=True)
class Arm:
    """One client program under measurement: what it is logged in with."""

    targets: list[Target]
    next: Iterator[tuple[int, Target]]
    connections: int
    sent: int


@dataclass(slots=True)
class Tap:
    """Who is fed, and how fast."""

    actions: Actions
    arms: dict[str, Arm] = field(default_factory=dict)
    fed: Arm | None = None
    per_second: float = 0.0
    task: asyncio.Task[None] | None = None

    def form(self, name: str, ports: Collection[int]) -> Arm:
        """Who is logged in from these ports and listens to prices, by account; each on its newest socket."""
        theirs = [each for each in self.actions.services.hub.connections.values() if _port(each) in ports]
        newest = {
            authorisation.account_id: each
            for each in sorted(theirs, key=lambda connection: connection.number)
            for authorisation in each.authorisations.values()
            if authorisation.spots
        }
        targets = [Target(newest[account], account, self._symbols(account)) for account in sorted(newest)]
        sent = self.arms[name].sent if name in self.arms else 0
        turns = zip(itertools.count(sent), itertools.cycle(targets), strict=False)
        arm = self.arms[name] = Arm(targets, turns, len({id(target.connection) for target in targets}), sent)
        return arm

    def _symbols(self, account_id: int) -> Iterator[tuple[int, int, int]]:
        services = self.actions.services
        catalogue = services.world.account(account_id).server
        rows = []
        for name in HELD:
            symbol = catalogue.by_name[name]
            tick = services.prices.latest(catalogue.key, symbol.id)
            if tick is None or tick.bid is None:
                raise RuntimeError(f"{name} has no price")
            rows.append((symbol.id, tick.bid, 10 ** (5 - symbol.terms.digits)))
        return itertools.cycle(rows)

    async def run(self) -> None:
        """Feed, for ever. Late steps are made up for, so that the pace holds."""
        loop = asyncio.get_running_loop()
        due, owed = loop.time(), 0.0
        while True:
            due = max(due + STEP_S, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
            arm = self.fed
            if arm is None:
                continue
            owed += self.per_second * STEP_S
            for _ in range(int(owed)):
                self._send(arm)
            owed -= int(owed)

    def _send(self, arm: Arm) -> None:
        step, target = next(arm.next)
        symbol, bid, scale = next(target.symbols)
        if not target.connection.open:
            raise RuntimeError(f"the connection of account {target.account} has ended")
        bid += step % 997 * scale
        target.connection.send_raw(price_message(target.account, symbol, bid, bid + 2 * scale))
        arm.sent += 1


def _port(connection: Connection) -> int:
    """The port it came from."""
    found: int = connection._transport.get_extra_info("peername")[1]  # what no part of the simulator needs to know
    return found


def with_feed(actions: Actions, alpaca: AlpacaActions, make_app: Any = bridge.simulator.running.make_app) -> Any:
    """The simulator's admin application with our routes."""
    app = make_app(actions, alpaca)
    tap = Tap(actions)

    async def form(request: web.Request) -> web.Response:
        body = await read_json(request)
        arm = tap.form(body["name"], set(body["ports"]))
        return send_json({"connections": arm.connections, "accounts": len(arm.targets)})

    async def feed(request: web.Request) -> web.Response:
        body = await read_json(request)
        if tap.task is not None and tap.task.done():
            tap.task.result()  # what went wrong, as an answer
        arm = tap.arms[body["arm"]]
        tap.per_second = float(body["perSecond"])
        tap.fed = arm if tap.per_second else None
        return send_json({"sent": arm.sent})

    async def hold(request: web.Request) -> web.Response:
        body = await read_json(request)
        await _hold(actions, body["users"], body["each"])
        return send_json({})

    async def symbols(_: web.Request) -> web.Response:
        servers = actions.services.world.servers
        return send_json({key: [each.by_name[name].id for name in HELD] for key, each in servers.items()})

    async def running(_: web.Application) -> Any:
        tap.task = asyncio.get_running_loop().create_task(tap.run())
        yield
        tap.task.cancel()
        await asyncio.gather(tap.task, return_exceptions=True)

    app.add_routes([web.post("/sim/feed/arm", form), web.post("/sim/feed", feed)])
    app.add_routes([web.post("/sim/feed/hold", hold), web.get("/sim/feed/symbols", symbols)])
    app.cleanup_ctx.append(running)
    return app


async def _hold(actions: Actions, users: int, each: int) -> None:
    """Open what is missing, on both symbols in turn."""
    world = actions.services.world
    opened = 0
    for user in range(1, users + 1):
        account = world.of_user[user][0]
        for number in range(len(list(world.engine.positions(account.key))), each):
            side = Side.BUY if number // len(HELD) % 2 == 0 else Side.SELL
            actions.order(account.id, symbol=HELD[number % len(HELD)], side=side, units=SIZE)
            opened += 1
            if opened % AT_ONCE == 0:
                await asyncio.sleep(0)


if __name__ == "__main__":
    bridge.simulator.running.make_app = with_feed
    sys.exit(main(sys.argv[1:]))
