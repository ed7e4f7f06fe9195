"""A hand-written WebSocket client for the simulator: asks, remembers, waits. It shares no code with the adapter."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m
from tests.support.waiting import eventually

WITHIN_S = 5.0
M = TypeVar("M", bound=Message)


def payload_type(message: Message) -> int:
    return message.DESCRIPTOR.fields_by_name["payloadType"].default_value


class Probe:
    """One connection. `events` holds every uncorrelated message in order; `closed` is set when the server closes."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[Message] = []
        self.everything: list[tuple[str, Message]] = []
        self.unknown: list[common.ProtoMessage] = []
        self.garbage: list[bytes] = []
        self.closed = asyncio.Event()
        self._asked = 0
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for raw in self.socket:
                assert isinstance(raw, bytes)
                self._take(raw)
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()

    def _take(self, raw: bytes) -> None:
        envelope = common.ProtoMessage()
        try:
            envelope.ParseFromString(raw)
            kind = PAYLOAD_CLASSES.get(envelope.payloadType)
            if kind is None:
                self.unknown.append(envelope)
                return
            message = kind()
            message.ParseFromString(envelope.payload)
        except (DecodeError, UnicodeDecodeError):
            self.garbage.append(raw)
            return
        if not message.IsInitialized():
            self.garbage.append(raw)
            return
        self.everything.append((envelope.clientMsgId, message))
        waiting = self._answers.pop(envelope.clientMsgId, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        else:
            self.events.append(message)

    async def send(self, message: Message, client_msg_id: str = "") -> None:
        envelope = common.ProtoMessage(payloadType=payload_type(message), payload=message.SerializeToString())
        if client_msg_id:
            envelope.clientMsgId = client_msg_id
        await self.socket.send(envelope.SerializeToString())

    async def ask(self, message: Message, *, within_s: float = WITHIN_S) -> Message:
        """Send a request and return its correlated answer."""
        self._asked += 1
        client_msg_id = f"probe-{self._asked}"
        future = self._answers[client_msg_id] = asyncio.get_running_loop().create_future()
        await self.send(message, client_msg_id)
        async with asyncio.timeout(within_s):
            return await future

    async def expect(self, kind: type[M], message: Message) -> M:
        """Ask and insist on an answer of that class."""
        answer = await self.ask(message)
        assert isinstance(answer, kind), answer
        return answer

    async def error(self, message: Message) -> tuple[str, str]:
        """Ask and insist on a refusal; returns (code, description)."""
        answer = await self.ask(message)
        assert isinstance(answer, (m.ProtoOAErrorRes, common.ProtoErrorRes, m.ProtoOAOrderErrorEvent)), answer
        return answer.errorCode, answer.description

    async def event(self, kind: type[M], matches: Callable[[M], bool] = lambda message: True) -> M:
        """The first event of that class that matches, now or soon."""
        return await eventually(
            lambda: next((each for each in self.events if isinstance(each, kind) and matches(each)), None),
            within_s=WITHIN_S,
            what=f"{kind.__name__} among {[type(each).__name__ for each in self.events]}",
        )

    async def pulse(self) -> None:
        """A round trip: everything the server sent before is here afterwards."""
        await self.ask(m.ProtoOAVersionReq())

    async def login(self, account_id: int, user: int) -> None:
        """Authorise one account; the application must be authorised already."""
        await self.expect(
            m.ProtoOAAccountAuthRes,
            m.ProtoOAAccountAuthReq(ctidTraderAccountId=account_id, accessToken=f"sim-access-{user}"),
        )

    async def app_auth(self) -> None:
        request = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")
        await self.expect(m.ProtoOAApplicationAuthRes, request)

    async def close(self) -> None:
        await self.socket.close()
        await self._reader


@asynccontextmanager
async def probe(
    port: int, *, app_auth: bool = True, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Probe]:
    """Connect, and authorise the application unless told not to."""
    uri = f"{'ws' if tls is None else 'wss'}://{host}:{port}"
    async with connect(uri, ssl=tls, compression=None, ping_interval=None, proxy=None, max_size=2**25) as socket:
        talk = Probe(socket)
        try:
            if app_auth:
                await talk.app_auth()
            yield talk
        finally:
            await talk.close()
