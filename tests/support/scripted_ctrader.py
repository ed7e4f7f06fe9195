"""A cTrader server that says what a test tells it to: for channels, where the simulator is too well-behaved.

It records every envelope it receives. It authorises the application and answers version requests; everything else is
answered by the test's own `answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader.common_messages_pb2 import ProtoMessage
from protos.ctrader.messages_pb2 import ProtoOAApplicationAuthRes, ProtoOAVersionRes

Answer = Callable[[ProtoMessage, Message], Iterable[Message | bytes] | None]
Gate = Callable[[ServerConnection, Request], Response | None]
NUMBERS = {kind: number for number, kind in PAYLOAD_CLASSES.items()}


def frame(message: Message, message_id: str = "") -> bytes:
    """One WebSocket message."""
    kind = NUMBERS[type(message)]
    return ProtoMessage(
        payloadType=kind, payload=message.SerializeToString(), clientMsgId=message_id
    ).SerializeToString()


class ScriptedCtrader:
    """Use as an async context manager. `answer` returns messages or raw frames for a request, None for the default."""

    def __init__(self, answer: Answer | None = None, gate: Gate | None = None, tls: Any = None) -> None:
        self.answer = answer
        self.received: list[ProtoMessage] = []
        self.connections: list[ServerConnection] = []
        self.opened = 0
        self._gate = gate
        self._tls = tls
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"{'ws' if self._tls is None else 'wss'}://127.0.0.1:{port}"

    def count(self, payload_type: int) -> int:
        """How many messages of this type came in."""
        return sum(1 for envelope in self.received if envelope.payloadType == payload_type)

    async def send(self, *messages: Message | bytes) -> None:
        """Send to every open connection."""
        for connection in self.connections:
            for message in messages:
                await connection.send(message if isinstance(message, bytes) else frame(message))

    def abort(self) -> None:
        """Drop every connection without a word."""
        for connection in self.connections:
            connection.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._gate, compression=None, ping_interval=None, ssl=self._tls
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.abort()
        await asyncio.wait_for(self._server.wait_closed(), 5)

    async def _serve(self, connection: ServerConnection) -> None:
        self.opened += 1
        self.connections.append(connection)
        try:
            async for raw in connection:
                envelope = ProtoMessage.FromString(raw if isinstance(raw, bytes) else raw.encode())
                self.received.append(envelope)
                for message in self._answers(envelope):
                    await connection.send(
                        message if isinstance(message, bytes) else frame(message, envelope.clientMsgId)
                    )
        except ConnectionClosed:
            pass  # the client's or the test's doing
        finally:
            self.connections.remove(connection)

    def _answers(self, envelope: ProtoMessage) -> Iterable[Message | bytes]:
        request = PAYLOAD_CLASSES[envelope.payloadType].FromString(envelope.payload)
        scripted = None if self.answer is None else self.answer(envelope, request)
        if scripted is not None:
            return scripted
        if envelope.payloadType == 2100:
            return (ProtoOAApplicationAuthRes(),)
        if envelope.payloadType == 2104:
            return (ProtoOAVersionRes(version="1"),)
        return ()
