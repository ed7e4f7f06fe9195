"""The sending side of the hot path, in a process of its own: as many events as the other end can take.

It is a relay in front of the simulator, so that our channel logs in over the real protocol; on command it writes
prepared frames into that connection. Its second port is for the bare receiver, which gets the very same bytes, and the
third speaks the broker's TCP framing, for the official client.
"""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, serve

from protos.ctrader import common_messages_pb2
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.frames import BATCH, EXECUTION, amendments, length_prefixed, prices
from scripts.benchmarks.relay import SOCKET, Relay


class Sender(Relay):
    """Listeners for our adapter and the other receivers."""

    def __init__(self, simulator_url: str) -> None:
        super().__init__(simulator_url)
        self._official: asyncio.StreamWriter | None = None
        self._execution: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()  # the first that passes

    async def plain(self, downstream: ServerConnection) -> None:
        """Only ever written to."""
        self.newest["bare"] = downstream
        await downstream.wait_closed()

    async def tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Written to as well; its heartbeats are read and dropped."""
        self._official = writer
        while await reader.read(65536):
            pass
        writer.close()

    def passed(self, message: str | bytes) -> None:
        if self._execution.done() or not isinstance(message, bytes):
            return
        envelope = common_messages_pb2.ProtoMessage.FromString(message)
        if envelope.payloadType == EXECUTION:
            self._execution.set_result(envelope.payload)

    async def blast(self, to: str, what: str, account: int, symbols: list[int], frames: int) -> None:
        """Write `frames` frames, in whole batches, as fast as the receiver reads."""
        if to == "official":
            await self._blast_tcp(prices(account, tuple(symbols), length_prefixed), frames)
            return
        connection = self.newest[to]
        ready = prices(account, tuple(symbols)) if what == "prices" else amendments(await self._execution)
        for _ in range(frames // BATCH):
            connection.transport.write(ready)
            await connection.drain()

    async def _blast_tcp(self, ready: bytes, frames: int) -> None:
        if self._official is None:
            raise RuntimeError("the official client has not connected")
        for _ in range(frames // BATCH):
            self._official.write(ready)
            await self._official.drain()


async def main(simulator_url: str) -> None:
    sender = Sender(simulator_url)
    async with (
        serve(sender.relay, "127.0.0.1", 0, **SOCKET) as ours,
        serve(sender.plain, "127.0.0.1", 0, **SOCKET) as bare,
        await asyncio.start_server(sender.tcp, "127.0.0.1", 0) as tcp,
    ):
        ports = {name: each.sockets[0].getsockname()[1] for name, each in (("ours", ours), ("bare", bare))}
        say(**ports, official=tcp.sockets[0].getsockname()[1])
        async for command in commands():
            await sender.blast(**command)
            say(done=True)


if __name__ == "__main__":
    import sys

    uvloop.run(main(sys.argv[1]))
