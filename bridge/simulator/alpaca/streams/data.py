"""The market-data streams: welcome, authentication within 10 s, additive subscriptions, batched data.

Source: reference/alpaca.md §3. Every frame is an array; control frames have one element. Data of one turn of the event
loop go out as one array per client, so a client never sees them out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bridge.simulator.alpaca.access import LIVE, PAPER, Caller
from bridge.simulator.alpaca.services import ENVIRONMENT, Services
from bridge.simulator.alpaca.streams.frames import Encoding
from bridge.simulator.alpaca.streams.handshake import serve
from bridge.simulator.alpaca.streams.hooks import StreamHooks
from bridge.simulator.alpaca.streams.slots import Slots
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket
from bridge.simulator.alpaca.streams.subscriptions import ERRORS, Feed, Refused, Subscriptions

BATCH = 1_000  # longest array of one frame


@dataclass(slots=True)
class _Reader:
    """What a data stream knows of one client."""

    subscriptions: Subscriptions
    waiting: list[dict[str, Any]] = field(default_factory=list)
    flush_due: bool = False


class DataStream:
    """Every open market-data stream. `publish` sends messages of a channel to those who want them."""

    def __init__(self, services: Services, hooks: StreamHooks) -> None:
        settings = services.settings
        limit = settings.data_symbol_limit
        feeds = (
            Feed("/v2/iex", "us_equity", limit),
            Feed("/v2/sip", "us_equity"),
            Feed("/v2/delayed_sip", "us_equity"),
            Feed("/v2/test", "us_equity"),
            Feed("/v1beta3/crypto/us", "crypto"),
        )
        self.feeds = {feed.path: feed for feed in feeds}
        self.clients: dict[StreamSocket, None] = {}  # in the order they came, so that a seed repeats
        self.slots = Slots(settings.data_connection_limit, settings.slot_seconds)
        self.max_unread_bytes = settings.max_unread_bytes
        self._services = services
        self._settings = settings
        self._hooks = hooks
        self._of_feed: dict[str, dict[StreamSocket, None]] = {path: {} for path in self.feeds}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The route of every feed."""
        environment = request.app[ENVIRONMENT]
        caller = self._by_headers(request)
        refused = self._hooks.handshake("data", environment, caller)
        if refused is not None:
            return refused
        return await serve(
            request,
            self,
            environment=environment,
            plain=Encoding.TEXT,
            max_message_bytes=self._settings.max_message_bytes,
            on_open=(lambda client: self._enter_at_once(client, caller)) if _has_credentials(request) else None,
        )

    def publish(self, paths: Iterable[str], channel: str, symbol: str, message: dict[str, Any]) -> None:
        """Send one message to the subscribers of its channel on these feeds."""
        for path in paths:
            for client in list(self._of_feed[path]):
                reader: _Reader = client.state
                if reader.subscriptions.wants(channel, symbol) and not self._hooks.is_muted(client):
                    self._queue(client, reader, message)

    def has_readers(self, path: str) -> bool:
        """Whether anybody has authenticated on a feed."""
        return bool(self._of_feed[path])

    def revoked(self, user: int) -> None:
        """A user's credentials died: their streams end."""
        for client in list(self.clients):
            caller = client.caller
            if caller is not None and caller.user == user and not self._services.access.holds(caller):
                self.refuse(client, 402)
                client.close(1008, "credentials revoked")

    def tick(self, now: float) -> None:
        """Time passes."""
        self.slots.tick(now)

    def refuse(self, client: StreamSocket, code: int) -> None:
        """Send an error frame."""
        self._services.counters.errors[f"stream {code}"] += 1
        client.send([{"T": "error", "code": code, "msg": ERRORS[code]}])

    # ---- what a socket tells

    def opened(self, client: StreamSocket) -> None:
        client.state = _Reader(Subscriptions(self.feeds[client.endpoint]))
        self.clients[client] = None
        self._services.counters.data_streams += 1
        self._services.counters.data_streams_opened += 1
        client.send([{"T": "success", "msg": "connected"}])
        client.later(self._settings.data_auth_seconds, lambda: self._expect_login(client))
        self._hooks.accepted(client)

    def received(self, client: StreamSocket, message: dict[str, Any]) -> None:
        action = message.get("action")
        try:
            if action == "auth":
                self._authenticate(client, message)
            elif action in ("subscribe", "unsubscribe"):
                self._subscribe(client, message, add=action == "subscribe")
            else:
                raise Refused(400)
        except Refused as refusal:
            self.refuse(client, refusal.code)

    def unreadable(self, client: StreamSocket) -> None:
        self.refuse(client, 400)

    def outgoing(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        return self._hooks.frames(client, message) if self._hooks.on_frames else [message]

    def slow(self, client: StreamSocket) -> None:
        self._services.counters.slow_clients += 1
        self.refuse(client, 407)

    def ended(self, client: StreamSocket, *, orderly: bool) -> None:
        self.clients.pop(client, None)
        self._of_feed[client.endpoint].pop(client, None)
        self._services.counters.data_streams -= 1
        if client.caller is not None:
            key = (client.caller.user, client.endpoint)
            self.slots.give_back(key, client, self._services.clock.monotonic(), orderly=orderly)

    # ---- conversation

    def _enter(self, client: StreamSocket, caller: Caller | None) -> None:
        """Authenticate a client. Raises Refused."""
        if client.caller is not None:
            raise Refused(403)
        if caller is None:
            self._services.counters.stream_auth_failures += 1
            raise Refused(402)
        if not caller.may("data"):
            raise Refused(411)
        if client.endpoint == "/v2/sip" and not self._settings.sip_allowed:
            raise Refused(409)
        now = self._services.clock.monotonic()
        key = (caller.user, client.endpoint)
        if self._hooks.is_slot_busy("data", caller) or not self.slots.take(key, client, now):
            self._services.counters.refused_slots += 1
            raise Refused(406)
        client.caller = caller
        self._of_feed[client.endpoint][client] = None
        client.send([{"T": "success", "msg": "authenticated"}])

    def _expect_login(self, client: StreamSocket) -> None:
        if client.caller is None:
            self.refuse(client, 404)
            client.close(1008, "auth timeout")

    def _authenticate(self, client: StreamSocket, message: dict[str, Any]) -> None:
        key, secret = message.get("key"), message.get("secret")
        if not isinstance(key, str) or not isinstance(secret, str):
            raise Refused(400)
        access = self._services.access
        caller = self._by_token(secret) if key == "oauth" else access.by_pair(key, secret)
        if caller is not None and client.caller is None and self._is_taken(client, caller):
            return
        self._enter(client, caller)

    def _is_taken(self, client: StreamSocket, caller: Caller) -> bool:
        return self._hooks.takes_login(client, caller, lambda: self._enter_at_once(client, caller))

    def _enter_at_once(self, client: StreamSocket, caller: Caller | None) -> None:
        """Authenticate without a message to answer: by the handshake's headers, or late."""
        try:
            self._enter(client, caller)
        except Refused as refusal:
            self.refuse(client, refusal.code)

    def _subscribe(self, client: StreamSocket, message: dict[str, Any], *, add: bool) -> None:
        if client.caller is None:
            raise Refused(401)
        reader: _Reader = client.state
        reader.subscriptions.change(message, add=add)
        client.send([reader.subscriptions.listing()])

    def _by_token(self, token: str) -> Caller | None:
        """Market data know no environment: a token for either will do."""
        access = self._services.access
        return access.by_token(token, PAPER) or access.by_token(token, LIVE)

    def _by_headers(self, request: web.Request) -> Caller | None:
        access = self._services.access
        return access.by_headers(request.headers, PAPER) or access.by_headers(request.headers, LIVE)

    # ---- data

    def _queue(self, client: StreamSocket, reader: _Reader, message: dict[str, Any]) -> None:
        self._services.counters.data_messages += 1
        reader.waiting.append(message)
        if len(reader.waiting) >= BATCH:
            self._flush(client, reader)
        elif not reader.flush_due:
            reader.flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_later, client, reader)

    def _flush_later(self, client: StreamSocket, reader: _Reader) -> None:
        reader.flush_due = False
        self._flush(client, reader)

    def _flush(self, client: StreamSocket, reader: _Reader) -> None:
        batch, reader.waiting = reader.waiting, []
        if batch:
            client.send(batch, "data")


def _has_credentials(request: web.Request) -> bool:
    return "APCA-API-KEY-ID" in request.headers or "Authorization" in request.headers
