"""From a broker's name to a connection: every address it has is tried, and none is remembered.

The next address is dialled when one has not answered in a moment (RFC 8305): with one dead address among several a dial
would otherwise wait for that one until its time is up, and again at every dial. Must not cache: brokers move.
"""

from __future__ import annotations

import asyncio
import socket

from aiohappyeyeballs import start_connection

NEXT_ADDRESS_S = 0.25


async def connected(host: str, port: int) -> socket.socket:
    """A connected socket to the first address that answers. Raises OSError; cancelled, it leaves nothing open."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError("the name has no address")
    plug = await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop)
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return plug
