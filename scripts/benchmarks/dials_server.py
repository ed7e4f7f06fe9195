"""A TLS server for sockets that are dialled in numbers: it greets each with one message and keeps it open."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, serve

from bridge.simulator.certificates import make_certificates
from scripts.benchmarks.children import commands, say


async def greet(connection: ServerConnection) -> None:
    await connection.send(b"welcome")
    await connection.wait_closed()


async def main(folder: str) -> None:
    certificates = make_certificates(Path(folder), dt.datetime.now(dt.UTC))
    async with serve(
        greet,
        *("127.0.0.1", 0),
        ssl=certificates.contexts["good"],
        compression=None,
        ping_interval=None,
        open_timeout=None,
        backlog=4096,
    ) as server:
        say(port=server.sockets[0].getsockname()[1], ca=str(certificates.ca_path))
        async for _ in commands():
            pass


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
