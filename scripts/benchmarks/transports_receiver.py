"""The receiving side of the comparison of transports, in a process of its own: `uvloop` or `asyncio`, then the ports.

Our adapter is logged in once over each transport; a bare `websockets` loop stands beside them, as in the hot path. One
of them receives at a time, on the same event loop. A price counts when the account mirror has applied it.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable

import uvloop
from websockets.asyncio.client import connect

from bridge.brokers.base import Environment
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.transports import PICOWS, WEBSOCKETS
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from core.secret import Secret
from scripts.benchmarks import aiohttp_socket
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.hot_path_receiver import Bare, Listener, flushed, timed
from scripts.benchmarks.measure import collect_as_served

OURS = (WEBSOCKETS, PICOWS, aiohttp_socket.NAME)


async def log_in(transport: str, port: int, account: str) -> AccountMirror:
    """The mirror of a live session over this transport."""
    url = f"ws://127.0.0.1:{port}/{transport}"
    settings = CtraderSettings("sim-client", Secret("sim-secret"), demo_url=url, live_url=url, transport=transport)
    broker = CtraderBroker(settings, SystemClock(), random.Random(1), Tasks("broker"))
    entry = {"accessToken": "sim-access-1", "environment": "demo", "accountId": account}
    session = broker.session(Environment.DEMO, account, Listener())
    await session.login(broker.read_credential("grant-1", entry), at_risk=True)
    _KEPT.append(session)
    if session.mirror is None:
        raise RuntimeError("a live session has no mirror")
    return session.mirror


_KEPT: list[object] = []


async def main(our_port: int, bare_port: int, account: str) -> None:
    aiohttp_socket.make_known()
    mirrors = {name: await log_in(name, our_port, account) for name in OURS}
    connection = await connect(
        f"ws://127.0.0.1:{bare_port}", compression=None, ping_interval=None, proxy=None, max_size=2**24
    )
    bare = Bare(connection)
    running = asyncio.get_running_loop().create_task(bare.run())
    counted: dict[str, Callable[[], int]] = {"bare": lambda: bare.count}
    after: dict[str, Callable[[], None]] = {"bare": lambda: None}
    for name, mirror in mirrors.items():
        counted[name] = lambda mirror=mirror: mirror.events  # type: ignore[misc]
        after[name] = lambda mirror=mirror: flushed(mirror)  # type: ignore[misc]
    collect_as_served()
    symbols = sorted({int(position.instrument_id) for position in mirrors[WEBSOCKETS].positions.values()})
    say(account=int(account), symbols=symbols)
    async for command in commands():
        which = command["of"]
        say(**await timed(counted[which], command["frames"], after[which]))
    running.cancel()


if __name__ == "__main__":
    run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
    run(main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
