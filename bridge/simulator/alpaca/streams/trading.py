"""The trading stream `/stream`: authentication, listening, and every trade update of an account in order.

Source: reference/alpaca.md §2. Paper sends JSON in binary frames, live in text frames, either MessagePack when the
handshake asks for it. There is no welcome, no replay and no account event. One stream per account: a second is refused
with HTTP 429 when the handshake says whose it is, else after authentication.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.services import ENVIRONMENT, Services
from bridge.simulator.alpaca.streams.frames import Encoding
from bridge.simulator.alpaca.streams.handshake import serve
from bridge.simulator.alpaca.streams.hooks import StreamHooks
from bridge.simulator.alpaca.streams.slots import Slots
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket

TRADE_UPDATES = "trade_updates"
_PLAIN = {"paper": Encoding.BINARY, "live": Encoding.TEXT}


class TradingStream:
    """Every open trading stream. `publish` sends an account's update to whoever listens."""

    def __init__(self, services: Services, hooks: StreamHooks) -> None:
        settings = services.settings
        self.clients: dict[StreamSocket, None] = {}  # in the order they came, so that a seed repeats
        self.slots = Slots(1, settings.slot_seconds)
        self.max_unread_bytes = settings.max_unread_bytes
        self._services = services
        self._settings = settings
        self._hooks = hooks
        self._of_account: dict[str, dict[StreamSocket, None]] = {}  # authenticated ones; state True = listens

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The route `/stream`."""
        counters, now_ms = self._services.counters, self._services.clock.now_ms()
        environment = request.app[ENVIRONMENT]
        counters.dials.append(now_ms)
        caller = self._services.access.by_headers(request.headers, environment)
        refused = self._hooks.handshake("trading", environment, caller)
        if refused is not None:
            return refused
        if caller is not None and caller.environment == environment and self._is_busy(caller):
            self._count_refusal(caller)
            return web.json_response({"code": 42910000, "message": "too many connections"}, status=429)
        return await serve(
            request,
            self,
            environment=environment,
            plain=_PLAIN[environment],
            max_message_bytes=self._settings.max_message_bytes,
        )

    def publish(self, account_id: str, payload: dict[str, Any] | None) -> None:
        """Send one trade update to the account's listeners."""
        self._hooks.updated(account_id)
        for client in list(self._of_account.get(account_id, ())):
            if client.state:
                self._services.counters.trade_updates += 1
                client.send({"stream": TRADE_UPDATES, "data": payload}, "update")

    def listeners(self, account_id: str) -> list[StreamSocket]:
        """Connections that get the account's updates."""
        return [client for client in self._of_account.get(account_id, ()) if client.state]

    def revoked(self, user: int) -> None:
        """A user's credentials died: tell their streams and close those that used one."""
        for client in list(self.clients):
            caller = client.caller
            if caller is not None and caller.user == user and not self._services.access.holds(caller):
                client.send(_authorization("unauthorized", "authenticate", "access key verification failed"))
                client.close(1008, "credentials revoked")

    def tick(self, now: float) -> None:
        """Time passes."""
        self.slots.tick(now)

    # ---- what a socket tells

    def opened(self, client: StreamSocket) -> None:
        self.clients[client] = None
        self._services.counters.trading_streams += 1
        self._services.counters.trading_streams_opened += 1
        client.later(self._settings.trading_auth_seconds, lambda: self._expect_login(client))
        self._hooks.accepted(client)

    def received(self, client: StreamSocket, message: dict[str, Any]) -> None:
        match message.get("action"):
            case "authenticate" | "auth":
                self._authenticate(client, message)
            case "listen":
                self._listen(client, message.get("data"))
            case _:
                client.send(_error("invalid action"))

    def unreadable(self, client: StreamSocket) -> None:
        client.send(_error("invalid message"))

    def outgoing(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        return self._hooks.frames(client, message) if self._hooks.on_frames else [message]

    def slow(self, client: StreamSocket) -> None:
        self._services.counters.slow_clients += 1

    def ended(self, client: StreamSocket, *, orderly: bool) -> None:
        self.clients.pop(client, None)
        self._services.counters.trading_streams -= 1
        account_id = client.account_id
        if account_id is None:
            return
        listeners = self._of_account.get(account_id, {})
        listeners.pop(client, None)
        if not listeners:
            self._of_account.pop(account_id, None)
        self.slots.give_back(account_id, client, self._services.clock.monotonic(), orderly=orderly)

    # ---- conversation

    def _expect_login(self, client: StreamSocket) -> None:
        if client.caller is None:
            client.close(1008, "authentication timeout")

    def _authenticate(self, client: StreamSocket, message: dict[str, Any]) -> None:
        counters = self._services.counters
        caller = self._caller(client, message)
        if caller is None:
            counters.stream_auth_failures += 1
            client.send(_authorization("unauthorized", "authenticate", "access key verification failed"))
            return
        counters.auth_attempts_by_account[caller.account_id] += 1
        counters.auth_attempts_by_user[caller.user] += 1
        counters.auth_order.append((self._services.clock.now_ms(), caller.account_id))
        if not self._hooks.takes_login(client, caller, lambda: self._enter(client, caller)):
            self._enter(client, caller)

    def _enter(self, client: StreamSocket, caller: Caller) -> None:
        if client.caller is not None and client.account_id != caller.account_id:
            client.send(_authorization("unauthorized", "authenticate", "already authenticated"))
            return
        busy = self._hooks.is_slot_busy("trading", caller)
        if busy or not self.slots.take(caller.account_id, client, self._services.clock.monotonic()):
            self._count_refusal(caller)
            client.send(_authorization(self._settings.slot_busy_status, "authenticate", "connection limit exceeded"))
            client.close(1008, "connection limit exceeded")
            return
        client.caller = caller
        self._of_account.setdefault(caller.account_id, {})[client] = None
        client.send(_authorization("authorized", "authenticate"))

    def _caller(self, client: StreamSocket, message: dict[str, Any]) -> Caller | None:
        """Who both spellings and OAuth speak for; None when the credential is bad or of the other environment."""
        data = message.get("data")
        where = data if isinstance(data, dict) else message
        access = self._services.access
        token = where.get("oauth_token")
        if isinstance(token, str):
            return access.by_token(token, client.environment)
        key, secret = where.get("key_id", where.get("key")), where.get("secret_key", where.get("secret"))
        if not isinstance(key, str) or not isinstance(secret, str):
            return None
        caller = access.by_token(secret, client.environment) if key == "oauth" else access.by_pair(key, secret)
        return caller if caller is not None and caller.environment == client.environment else None

    def _listen(self, client: StreamSocket, data: object) -> None:
        if client.caller is None:
            client.send(_authorization("unauthorized", "listen"))
            return
        streams = data.get("streams") if isinstance(data, dict) else None
        if not isinstance(streams, list):
            client.send(_error("invalid listen request"))
            return
        client.state = TRADE_UPDATES in streams
        # Unknown streams drop out of the acknowledgement without a word.
        client.send({"stream": "listening", "data": {"streams": [TRADE_UPDATES] if client.state else []}})
        if client.state:
            self._hooks.listening(client)

    def _is_busy(self, caller: Caller) -> bool:
        now = self._services.clock.monotonic()
        return self._hooks.is_slot_busy("trading", caller) or self.slots.is_busy(caller.account_id, now)

    def _count_refusal(self, caller: Caller) -> None:
        self._services.counters.refused_slots += 1
        if self.slots.open_count(caller.account_id):
            self._services.counters.double_logins += 1


def _authorization(status: str, action: str, message: str | None = None) -> dict[str, Any]:
    data = {"status": status, "action": action}
    if message is not None:
        data["message"] = message
    return {"stream": "authorization", "data": data}


def _error(text: str) -> dict[str, Any]:
    return {"action": "error", "data": {"error_message": text}}
