"""Telling other processes that there is something to look at: NOTIFY, and a connection of its own that listens.

A notice says who should look, never at what: whoever can read the channel learns nothing about users. It is a hint
only; whoever cannot listen looks from time to time. Listening needs the address of a server or of a session pooler: a
transaction pooler lends connections for moments. Invariant: after every (re)connection the listener is woken, because
notices may have been missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

import asyncpg

from bridge.db.address import server_address
from bridge.db.connection import Connection
from bridge.db.errors import FOREIGN, translated
from core.errors import BridgeError
from core.secret import Secret

log = logging.getLogger(__name__)

CHANNEL = "pulse_bridge"
EVERYBODY = "*"
DIAL_S = 5.0
PROBE_EVERY_S = 10.0
PROBE_S = 3.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0


async def notify(connection: Connection, whom: str = EVERYBODY) -> None:
    """Tell a process, or all, that there is something to look at, when the transaction is committed."""
    await connection.execute("select pg_notify($1, $2)", CHANNEL, whom)


class Listener:
    """Runs until cancelled. `told(whom)` is called for every notice, on the loop; it must not block or raise."""

    def __init__(self, url: Secret, told: Callable[[str], None], rng: Random) -> None:
        self._url = url
        self._told = told
        self._rng = rng
        self._attempt = 0
        self._said = False
        self.connected = False

    async def run(self) -> None:
        """Listen; when the connection ends, again."""
        while True:
            try:
                await self._listen()
            except FOREIGN as error:
                self._failed(translated(error))
            self._attempt += 1
            ceiling = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._attempt, 8))
            await asyncio.sleep(self._rng.uniform(ceiling / 2, ceiling))

    async def _listen(self) -> None:
        async with asyncio.timeout(DIAL_S):
            connection = await asyncpg.connect(
                server_address(self._url),
                statement_cache_size=0,
                command_timeout=PROBE_S,
                server_settings={"application_name": "pulse-bridge notices"},
            )
        try:
            await connection.add_listener(CHANNEL, self._heard)
            self.connected, self._attempt = True, 0
            if self._said:
                log.info("notices of other processes are heard again")
                self._said = False
            self._told(EVERYBODY)
            while True:  # a connection that was cut in silence is noticed by asking
                await asyncio.sleep(PROBE_EVERY_S)
                await connection.execute("select 1", timeout=PROBE_S)
        finally:
            self.connected = False
            connection.terminate()

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self._told(str(payload))

    def _failed(self, error: BridgeError) -> None:
        if not self._said:
            self._said = True
            log.warning("notices of other processes are not heard, so they are looked for: %s", error)
