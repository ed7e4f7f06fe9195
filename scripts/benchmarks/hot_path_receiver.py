"""The receiving side of the hot path, in a process of its own: our logged-in adapter, and a bare `websockets` loop.

Both run on the same event loop, one at a time, on the same bytes. Ours is the whole adapter after a real login: a frame
counts when the account mirror has applied it. The bare one receives, decodes envelope and event, and drops them.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bridge.brokers.base import BrokerFault, Environment, Stage
from bridge.brokers.ctrader.broker import CtraderBroker, CtraderSession
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from core.secret import Secret
from protos.ctrader import common_messages_pb2, messages_pb2
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.frames import SPOT
from scripts.benchmarks.measure import collect_as_served

LOOK_EVERY_S = 0.001
WITHIN_S = 60.0


class Listener:
    """A session as far as the adapter needs one."""

    def __init__(self) -> None:
        self.marks = 0

    def stage(self, stage: Stage) -> None:
        pass

    def changed(self, *, urgent: bool) -> None:
        self.marks += 1

    def lost(self, fault: BrokerFault) -> None:
        raise RuntimeError("the session was lost while measuring") from fault


async def log_in(port: int, account: str) -> CtraderSession:
    """A live session of the simulator's first user, by the real adapter."""
    url = f"ws://127.0.0.1:{port}"
    settings = CtraderSettings("sim-client", Secret("sim-secret"), demo_url=url, live_url=url)
    broker = CtraderBroker(settings, SystemClock(), random.Random(1), Tasks("broker"))
    entry = {"accessToken": "sim-access-1", "environment": "demo", "accountId": account}
    session = broker.session(Environment.DEMO, account, Listener())
    await session.login(broker.read_credential("grant-1", entry), at_risk=True)
    return session


class Bare:
    """The comparison."""

    def __init__(self, connection: ClientConnection) -> None:
        self.count = 0
        self._connection = connection

    async def run(self) -> None:
        envelope = common_messages_pb2.ProtoMessage()
        spot = messages_pb2.ProtoOASpotEvent()
        execution = messages_pb2.ProtoOAExecutionEvent()
        connection = self._connection
        while True:
            envelope.ParseFromString(await connection.recv(decode=False))
            if envelope.payloadType == SPOT:
                spot.ParseFromString(envelope.payload)
            else:
                execution.ParseFromString(envelope.payload)
            self.count += 1


async def timed(counted: Callable[[], int], frames: int, every_look: Callable[[], None]) -> dict[str, float]:
    """Wall and processor time from the word to the sender until the last frame; the same for both receivers.

    The library's loop reads on as long as bytes wait, so that one look may already find everything done.
    """
    base = counted()
    say(armed=True)
    wall, processor = time.perf_counter(), time.process_time()
    async with asyncio.timeout(WITHIN_S):
        while counted() < base + frames:
            every_look()
            await asyncio.sleep(LOOK_EVERY_S)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "perSecond": frames / wall,
        "cpuUs": processor / frames * 1e6,
        "busy": processor / wall,
        "surplus": counted() - base - frames,
    }


def flushed(mirror: AccountMirror) -> None:
    """What a flush does to the mirror; here a thousand times a second, in production every two seconds."""
    mirror.clean()


async def main(our_port: int, bare_port: int, account: str) -> None:
    session = await log_in(our_port, account)
    mirror = session.mirror
    if mirror is None:
        raise RuntimeError("a live session has no mirror")
    connection = await connect(
        f"ws://127.0.0.1:{bare_port}", compression=None, ping_interval=None, proxy=None, max_size=2**24
    )
    bare = Bare(connection)
    running = asyncio.get_running_loop().create_task(bare.run())
    collect_as_served()
    symbols = sorted({int(position.instrument_id) for position in mirror.positions.values()})
    say(account=int(account), symbols=symbols)
    async for command in commands():
        if command["of"] == "ours":
            say(**await timed(lambda: mirror.events, command["frames"], lambda: flushed(mirror)))
        else:
            say(**await timed(lambda: bare.count, command["frames"], lambda: None))
    running.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
