"""What stands between the simulator and the receivers of the event benchmarks: it carries a login, then only writes.

Our adapter logs in through it over the real protocol; the senders write prepared frames into that connection, and the
very same bytes into one of the other receiver, which never sees the simulator.
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

SOCKET: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": 2**24}


class Relay:
    """The newest connection of each receiver is the one that is written to."""

    def __init__(self, simulator_url: str) -> None:
        self._simulator_url = simulator_url
        self.newest: dict[str, ServerConnection] = {}

    async def relay(self, downstream: ServerConnection) -> None:
        """Carry messages between our adapter and the simulator."""
        self.newest["ours"] = downstream
        async with connect(self._simulator_url, proxy=None, **SOCKET) as upstream:
            back = asyncio.get_running_loop().create_task(self._pump(upstream, downstream))
            await self._pump(downstream, upstream)
            back.cancel()

    def passed(self, message: str | bytes) -> None:
        """The simulator said that, and our adapter hears it next."""

    async def _pump(
        self, source: ServerConnection | ClientConnection, sink: ServerConnection | ClientConnection
    ) -> None:
        try:
            async for message in source:
                if isinstance(source, ClientConnection):
                    self.passed(message)
                await sink.send(message)
        except ConnectionClosed:
            await sink.close()
