"""The sending side of the hot path, in a process of its own: as many events as the other end can take.

It is a relay in front of the simulator, so that our channel logs in over the real protocol; on command it writes
prepared frames into that connection. Its second port is for the bare receiver, which gets the very same bytes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from protos.ctrader import common_messages_pb2
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.frames import BATCH, EXECUTION, amendments, prices

SOCKET: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": 2**24}


class Sender:
    """Two listeners; the newest connection of each is the one that is written to."""

    def __init__(self, simulator_url: str) -> None:
        self._simulator_url = simulator_url
        self._newest: dict[str, ServerConnection] = {}
        self._execution: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()  # the first that passes

    async def relay(self, downstream: ServerConnection) -> None:
        """Carry messages between our channel and the simulator."""
        self._newest["ours"] = downstream
        async with connect(self._simulator_url, proxy=None, **SOCKET) as upstream:
            back = asyncio.get_running_loop().create_task(self._pump(upstream, downstream))
            await self._pump(downstream, upstream)
            back.cancel()

    async def plain(self, downstream: ServerConnection) -> None:
        """Only ever written to."""
        self._newest["bare"] = downstream
        await downstream.wait_closed()

    async def _pump(
        self, source: ServerConnection | ClientConnection, sink: ServerConnection | ClientConnection
    ) -> None:
        try:
            async for message in source:
                await sink.send(message)
                if isinstance(source, ClientConnection) and isinstance(message, bytes):
                    envelope = common_messages_pb2.ProtoMessage.FromString(message)
                    if envelope.payloadType == EXECUTION and not self._execution.done():
                        self._execution.set_result(envelope.payload)
        except ConnectionClosed:
            await sink.close()

    async def blast(self, to: str, what: str, account: int, symbols: list[int], frames: int) -> None:
        """Write `frames` frames, in whole batches, as fast as the receiver reads."""
        connection = self._newest[to]
        ready = prices(account, tuple(symbols)) if what == "prices" else amendments(await self._execution)
        for _ in range(frames // BATCH):
            connection.transport.write(ready)
            await connection.drain()


async def main(simulator_url: str) -> None:
    sender = Sender(simulator_url)
    async with (
        serve(sender.relay, "127.0.0.1", 0, **SOCKET) as ours,
        serve(sender.plain, "127.0.0.1", 0, **SOCKET) as bare,
    ):
        say(ours=ours.sockets[0].getsockname()[1], bare=bare.sockets[0].getsockname()[1])
        async for command in commands():
            await sender.blast(**command)
            say(done=True)


if __name__ == "__main__":
    import sys

    uvloop.run(main(sys.argv[1]))
