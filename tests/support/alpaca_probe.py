"""Hand-written clients for the simulated Alpaca: streams that remember what they got, REST by plain aiohttp.

They share no code with the adapter. Messages are decoded from whatever frame they came in; `frames` keeps the frames.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.waiting import eventually

WITHIN_S = 5.0


def keys(user: int = 1) -> dict[str, str]:
    """Headers of a user's paper account."""
    return {"APCA-API-KEY-ID": f"SIMKEY{user}", "APCA-API-SECRET-KEY": f"sim-alpaca-secret-{user}"}


def live_keys(user: int = 1) -> dict[str, str]:
    return {"APCA-API-KEY-ID": f"SIMLIVE{user}", "APCA-API-SECRET-KEY": f"sim-alpaca-live-secret-{user}"}


class Stream:
    """One WebSocket. `messages` in order; `rubbish` holds frames that nobody can read."""

    def __init__(self, socket: ClientConnection, *, speaks_msgpack: bool) -> None:
        self.socket = socket
        self.messages: list[Any] = []
        self.frames: list[str | bytes] = []
        self.rubbish: list[str | bytes] = []
        self.closed = asyncio.Event()
        self._speaks_msgpack = speaks_msgpack
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for frame in self.socket:
                self.frames.append(frame)
                try:
                    self.messages.append(self._decode(frame))
                except (ValueError, TypeError, msgpack.UnpackException):
                    self.rubbish.append(frame)
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()

    def _decode(self, frame: str | bytes) -> Any:
        if self._speaks_msgpack and isinstance(frame, bytes):
            return msgpack.unpackb(frame)
        return json.loads(frame)

    async def say(self, message: Any) -> None:
        """Send a message in the stream's own encoding (JSON as text)."""
        await self.socket.send(msgpack.packb(message) if self._speaks_msgpack else json.dumps(message))

    async def until(self, found: Callable[[], Any], what: str = "") -> Any:
        """Wait until something was received."""
        return await eventually(found, within_s=WITHIN_S, what=what or f"got only {self.messages}")

    async def ask(self, message: Any) -> Any:
        """Say something; the next message that comes in."""
        seen = len(self.messages)
        await self.say(message)
        await self.until(lambda: len(self.messages) > seen)
        return self.messages[seen]

    async def ended(self) -> int:
        """Wait for the end; the close code, 1006 when there was none."""
        async with asyncio.timeout(WITHIN_S):
            await self.closed.wait()
        return self.socket.close_code or 1006

    # ---- trading streams

    async def login(self, user: int = 1, *, live: bool = False) -> dict[str, Any]:
        pair = list((live_keys if live else keys)(user).values())
        answer = await self.ask({"action": "authenticate", "data": {"key_id": pair[0], "secret_key": pair[1]}})
        data: dict[str, Any] = answer["data"]
        return data

    async def listen(self) -> None:
        """Listen, and wait for the word that one does: whatever was sent before has arrived by then."""
        seen = self._acknowledged
        await self.say({"action": "listen", "data": {"streams": ["trade_updates"]}})
        await self.until(lambda: self._acknowledged > seen)

    @property
    def _acknowledged(self) -> int:
        return self.messages.count({"stream": "listening", "data": {"streams": ["trade_updates"]}})

    @property
    def updates(self) -> list[dict[str, Any]]:
        """Data of the trade updates so far."""
        return [
            each["data"] for each in self.messages if isinstance(each, dict) and each.get("stream") == "trade_updates"
        ]

    @property
    def events(self) -> list[str]:
        return [each["event"] for each in self.updates if each]

    # ---- data streams

    @property
    def data(self) -> list[dict[str, Any]]:
        """Market-data messages so far, out of their arrays."""
        flat = [each for message in self.messages if isinstance(message, list) for each in message]
        return [each for each in flat if isinstance(each, dict) and "S" in each]


@asynccontextmanager
async def stream(
    port: int,
    path: str = "/stream",
    *,
    headers: dict[str, str] | None = None,
    speaks_msgpack: bool = False,
    **more: Any,
) -> AsyncIterator[Stream]:
    """Connect. Raises websockets' InvalidStatus when the handshake is refused."""
    said = dict(headers or {})
    if speaks_msgpack:
        said["Content-Type"] = "application/msgpack"
    more = {"open_timeout": WITHIN_S, "close_timeout": 1, "max_size": None, "proxy": None, **more}
    async with connect(f"ws://127.0.0.1:{port}{path}", additional_headers=said, **more) as socket:
        talking = Stream(socket, speaks_msgpack=speaks_msgpack)
        try:
            yield talking
        finally:
            await socket.close()
            await talking.reader


@asynccontextmanager
async def listening(port: int, user: int = 1, *, live: bool = False, **more: Any) -> AsyncIterator[Stream]:
    """A trading stream that listens."""
    async with stream(port, **more) as talking:
        assert (await talking.login(user, live=live))["status"] == "authorized"
        await talking.listen()
        yield talking


@asynccontextmanager
async def reading(
    port: int, path: str, user: int = 1, *, speaks_msgpack: bool = False, **wanted: list[str]
) -> AsyncIterator[Stream]:
    """A data stream that is subscribed to something."""
    async with stream(port, path, speaks_msgpack=speaks_msgpack) as talking:
        await talking.until(lambda: talking.messages == [[{"T": "success", "msg": "connected"}]])
        key, secret = keys(user).values()
        answer = await talking.ask({"action": "auth", "key": key, "secret": secret})
        assert answer == [{"T": "success", "msg": "authenticated"}]
        if wanted:
            await talking.ask({"action": "subscribe", **wanted})
        yield talking


async def rest(
    port: int, method: str, path: str, *, user: int = 1, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """One REST request with a user's paper keys: the status, and the JSON (None for an empty body)."""
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}{path}"
        async with session.request(method, url, json=body, headers=headers or keys(user)) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if raw else None
