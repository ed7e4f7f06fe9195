"""One trading stream over a real socket: handshakes, frames of every kind, liveness, and what a broken peer can do."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgpack
import orjson
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.stream import GARBAGE_IN_A_ROW, StreamRefused, TradingStream
from bridge.brokers.base import BrokerFault, FaultKind, ReasonCode
from bridge.brokers.stats import Stats
from bridge.runtime.clock import SystemClock
from tests.support.scripted_streams import Message, ScriptedStreams
from tests.support.waiting import eventually

WITHIN_S = 5.0
KEYS = credentials.read("g", {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "paper"})
TOKEN = credentials.read("g", {"accessToken": "sim-alpaca-oauth-1", "environment": "paper"})
AUTHORISED = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}
UPDATE = {"stream": "trade_updates", "data": {"event": "new", "order": {"id": "1"}}}


class Owner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.unusables = 0
        self.ends: list[BrokerFault] = []

    def usual(self, frame: Any) -> bool:
        return False  # everything is read here

    def update(self, data: dict[str, Any]) -> None:
        self.updates.append(data)

    def unusable(self) -> None:
        self.unusables += 1

    def stream_ended(self, stream: TradingStream, fault: BrokerFault) -> None:
        assert not stream.up
        self.ends.append(fault)


class Rig:
    def __init__(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "ping_s": 0.1,
            "pong_timeout_s": 0.15,
            "auth_timeout_s": 10.0,
            "connect_timeout_s": 10.0,
            "close_timeout_s": 0.3,
        }
        self.settings = AlpacaSettings(**{**values, **changes})
        self.stats = Stats()
        self.owner = Owner()
        self.clock = SystemClock()
        self.dialer = Dialer(self.settings, self.clock, self.stats)
        self.stream = TradingStream(self.owner, self.dialer, self.settings, self.clock, self.stats)

    async def open(self, url: str, credential: Any = KEYS) -> None:
        await self.stream.open(url, orjson.dumps(credentials.stream_auth(credential)))

    async def refused(self, url: str) -> BrokerFault:
        with pytest.raises(BrokerFault) as refused:
            await self.open(url)
        assert not self.stream.up
        assert self.owner.ends == []
        return refused.value


def text(document: Any) -> str:
    return orjson.dumps(document).decode()


def polite(pack: Callable[[Any], Message] = text, *after: Any) -> Callable[[Any], Iterable[Message]]:
    """A server that authorises everybody and acknowledges; `after` follows the acknowledgement at once."""

    def answer(document: Any) -> Iterable[Message]:
        if document["action"] == "authenticate":
            return [pack(AUTHORISED)]
        return [pack(LISTENING), *(pack(one) for one in after)]

    return answer


# ---------------------------------------------------------------- handshakes


@pytest.mark.parametrize("pack", [text, orjson.dumps, msgpack.packb], ids=["text", "binary", "msgpack"])
async def test_updates_arrive_when_frames_are_of_this_kind(pack: Callable[[Any], Message]) -> None:
    rig = Rig()
    async with ScriptedStreams(polite(pack, UPDATE)) as server:
        await rig.open(server.url)
        assert rig.stream.up
        await server.send(pack(UPDATE), pack({"stream": "account_updates", "data": {}}), b"\x01", pack(UPDATE))
        await eventually(lambda: len(rig.owner.updates) == 3, within_s=WITHIN_S)
        assert rig.owner.updates == [UPDATE["data"]] * 3  # the first came with the acknowledgement
        assert rig.stats.get("unknown_messages") == 2
        assert rig.owner.unusables == 0
        await rig.stream.close()
    assert rig.owner.ends == []


@pytest.mark.parametrize(
    ("credential", "data"),
    [
        (KEYS, {"key_id": "SIMKEY1", "secret_key": "sim-alpaca-secret-1"}),
        (TOKEN, {"oauth_token": "sim-alpaca-oauth-1"}),
    ],
    ids=["keys", "token"],
)
async def test_login_is_spelled_as_every_client_does(credential: Any, data: dict[str, str]) -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url, credential)
        assert server.received == [
            {"action": "authenticate", "data": data},
            {"action": "listen", "data": {"streams": ["trade_updates"]}},
        ]
        await rig.stream.close()
        await eventually(lambda: server.closed_cleanly == 1, within_s=WITHIN_S)


def gate(status: int, retry_after: str | None = None) -> Callable[[ServerConnection, Request], Response]:
    def judge(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(status, "no")
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response

    return judge


@pytest.mark.parametrize(("retry_after", "least"), [(None, 95.0), ("7", 95.0), ("300", 300.0)])
async def test_slot_is_waited_for_long_enough_when_the_handshake_says_429(
    retry_after: str | None, least: float
) -> None:
    rig = Rig()
    async with ScriptedStreams(gate=gate(429, retry_after)) as server:
        fault = await rig.refused(server.url)
        assert (fault.kind, fault.reason.code) == (FaultKind.THROTTLE, ReasonCode.CONNECTION_LIMIT)
        assert fault.retry_after_s == least
        assert fault.shared
        assert server.received == []


async def test_slot_is_waited_for_when_the_login_says_exceeded() -> None:
    rig = Rig()
    exceeded = {"stream": "authorization", "data": {"status": "exceeded", "action": "authenticate"}}
    async with ScriptedStreams(lambda _: [text(exceeded)]) as server:
        fault = await rig.refused(server.url)
        assert (fault.kind, fault.retry_after_s) == (FaultKind.THROTTLE, 95.0)
        await eventually(lambda: not server.connections, within_s=WITHIN_S)


@pytest.mark.parametrize("status", [401, 403])
async def test_refusal_of_a_handshake_is_not_believed_by_itself(status: int) -> None:
    async with ScriptedStreams(gate=gate(status)) as server:
        fault = await Rig().refused(server.url)
        assert isinstance(fault, StreamRefused)
        assert fault.kind is FaultKind.TRANSIENT


@pytest.mark.parametrize("status", [200, 401, 404, 429, 500, 503])
async def test_causes_come_to_an_end_when_a_handshake_is_refused(status: int) -> None:
    async with ScriptedStreams(gate=gate(status)) as server:
        error: BaseException | None = await Rig().refused(server.url)
    seen: list[BaseException] = []
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__ or error.__context__


async def test_refusal_of_a_login_is_not_believed_by_itself() -> None:
    refusal = {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}}
    async with ScriptedStreams(lambda _: [text(refusal)]) as server:
        fault = await Rig().refused(server.url)
        assert isinstance(fault, StreamRefused)
        await eventually(lambda: not server.connections, within_s=WITHIN_S)


@pytest.mark.parametrize(
    "reply",
    [
        {"stream": "listening", "data": {"streams": []}},
        {"action": "error", "data": {"error_message": "internal"}},
    ],
    ids=["deaf", "error"],
)
async def test_stream_is_given_up_when_it_will_not_listen(reply: Any) -> None:
    def answer(document: Any) -> Iterable[Message]:
        return [text(AUTHORISED if document["action"] == "authenticate" else reply)]

    async with ScriptedStreams(answer) as server:
        fault = await Rig().refused(server.url)
        assert (fault.kind, fault.reason.code) == (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR)


async def test_nothing_stays_open_when_the_login_is_never_answered() -> None:
    rig = Rig(auth_timeout_s=0.2)
    async with ScriptedStreams() as server:
        fault = await rig.refused(server.url)
        assert fault.reason.code is ReasonCode.BROKER_SILENT
        await eventually(lambda: not server.connections, within_s=WITHIN_S)


async def test_login_ends_at_once_when_the_peer_hangs_up() -> None:
    rig = Rig(auth_timeout_s=30.0)
    async with ScriptedStreams(lambda _: (_ for _ in [server.abort()])) as server:
        async with asyncio.timeout(WITHIN_S):
            fault = await rig.refused(server.url)
        assert fault.reason.code is ReasonCode.CONNECTION_LOST


async def test_nothing_stays_open_when_the_caller_gives_up() -> None:
    rig = Rig(auth_timeout_s=30.0)
    async with ScriptedStreams() as server:
        opening = asyncio.ensure_future(rig.open(server.url))
        await eventually(lambda: server.received, within_s=WITHIN_S)
        opening.cancel()
        await eventually(lambda: not server.connections, within_s=WITHIN_S)
    assert rig.owner.ends == []


# ---------------------------------------------------------------- life and death


async def test_stream_stays_up_when_nothing_but_pongs_come() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        first = rig.stream.last_heard
        await eventually(lambda: rig.stats.get("pings") >= 4, within_s=WITHIN_S)
        assert rig.stream.up
        assert rig.stream.last_heard > first
        await rig.stream.close()


async def test_stream_is_dead_when_pings_are_not_answered() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        server.freeze()
        await eventually(lambda: rig.owner.ends, within_s=WITHIN_S)
        assert rig.owner.ends[0].reason.code is ReasonCode.BROKER_SILENT
        assert rig.stats.get("pings") == 1


async def test_owner_is_told_once_when_the_stream_is_cut() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        server.abort()
        await eventually(lambda: rig.owner.ends, within_s=WITHIN_S)
        (fault,) = rig.owner.ends
        assert (fault.kind, fault.reason.code, fault.shared) == (
            FaultKind.TRANSIENT,
            ReasonCode.CONNECTION_LOST,
            True,
        )
        await rig.stream.close()
        assert len(rig.owner.ends) == 1


async def test_stream_ends_when_a_live_one_is_told_that_it_is_not_authorised() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        await server.send(text({"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}))
        await eventually(lambda: rig.owner.ends, within_s=WITHIN_S)
        assert isinstance(rig.owner.ends[0], StreamRefused)


async def test_account_is_asked_to_read_when_something_cannot_be_used() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        await server.send("<html>", b"\x00\x01", text({"stream": "trade_updates", "data": None}), text(UPDATE))
        await server.send(text({"action": "error", "data": {"error_message": "slow"}}))
        await eventually(lambda: rig.stats.get("stream_errors") == 1, within_s=WITHIN_S)
        assert rig.owner.unusables == 3
        assert len(rig.owner.updates) == 1
        assert (rig.stats.get("garbage_frames"), rig.stats.get("empty_updates")) == (2, 1)
        assert rig.stream.up
        await rig.stream.close()


async def test_stream_ends_when_too_much_in_a_row_cannot_be_read() -> None:
    rig = Rig()
    async with ScriptedStreams(polite()) as server:
        await rig.open(server.url)
        for _ in range(3):
            await server.send(*["garbage"] * (GARBAGE_IN_A_ROW - 1), text(UPDATE))
        await eventually(lambda: len(rig.owner.updates) == 3, within_s=WITHIN_S)
        assert rig.stream.up
        await server.send(*["garbage"] * GARBAGE_IN_A_ROW)
        await eventually(lambda: rig.owner.ends, within_s=WITHIN_S)
        assert rig.owner.ends[0].reason.code is ReasonCode.BROKER_ERROR
