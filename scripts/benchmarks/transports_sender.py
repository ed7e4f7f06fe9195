"""The sending side of the comparison of transports: a relay with a door for each, told apart by the path that is asked.

What is written is the same for all: whole batches, or one price in each write, as a quiet account receives them.
"""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from scripts.benchmarks import hot_path_sender
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.frames import BATCH, spot_payload
from scripts.benchmarks.relay import SOCKET


class Sender(hot_path_sender.Sender):
    """One listener for all adapters, one for the bare receiver."""

    async def relay(self, downstream: ServerConnection) -> None:
        if downstream.request is not None:
            self.newest[downstream.request.path.strip("/")] = downstream
        await super().relay(downstream)

    async def one_by_one(self, to: str, account: int, symbols: list[int], frames: int) -> None:
        """A write for each price, each in a turn of the loop of its own."""
        connection = self.newest[to]
        ready = [
            Frame(Opcode.BINARY, spot_payload(account, symbols[step % len(symbols)], step)).serialize(mask=False)
            for step in range(BATCH)
        ]
        for step in range(frames):
            connection.transport.write(ready[step % BATCH])
            await asyncio.sleep(0)  # the loop writes at the end of its turn
            if step % BATCH == 0:
                await connection.drain()


async def main(simulator_url: str) -> None:
    sender = Sender(simulator_url)
    async with (
        serve(sender.relay, "127.0.0.1", 0, **SOCKET) as ours,
        serve(sender.plain, "127.0.0.1", 0, **SOCKET) as bare,
    ):
        say(ours=ours.sockets[0].getsockname()[1], bare=bare.sockets[0].getsockname()[1])
        async for command in commands():
            if command.pop("what") == "one by one":
                await sender.one_by_one(**command)
            else:
                await sender.blast(what="prices", **command)
            say(done=True)


if __name__ == "__main__":
    import sys

    uvloop.run(main(sys.argv[1]))
