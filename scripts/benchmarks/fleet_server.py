"""The broker's side of the plain comparison for memory: one connection per user, a price now and then on each."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, serve

from scripts.benchmarks.children import commands, say
from scripts.benchmarks.frames import spot_payload

EVERY_S = 2.0


async def quotes(connection: ServerConnection) -> None:
    """Two prices every two seconds until the other end leaves."""
    account = int(connection.request.path.strip("/")) if connection.request is not None else 0
    step = account
    closed = asyncio.get_running_loop().create_task(connection.wait_closed())
    while not closed.done():
        for symbol in (1, 2):
            await connection.send(spot_payload(account, symbol, step))
        step += 1
        await asyncio.wait([closed], timeout=EVERY_S)


async def main() -> None:
    async with serve(quotes, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=4096) as server:
        say(port=server.sockets[0].getsockname()[1])
        async for _ in commands():
            pass


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
