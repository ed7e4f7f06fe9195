"""Faults of stream messages as bytes: cut, oversized, random or damaged frames, unknown messages, odd little ones."""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Literal

from pydantic import Field

from bridge.simulator.alpaca.faults.base import FrameFault, StreamFault
from bridge.simulator.alpaca.streams.frames import encode
from bridge.simulator.alpaca.streams.socket import Kind, Outgoing, StreamSocket
from bridge.simulator.alpaca.streams.wire import header

ANNOUNCED_BYTES = 1 << 31
HEARTBEAT = b"\x01"
NOT_JSON = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def as_bytes(client: StreamSocket, message: Outgoing) -> tuple[bool, bytes]:
    """What a message is on its way out: whether it is text, and the bytes."""
    if message.raw is not None:
        return message.raw
    return client.encoding.is_text, encode(message.document, client.encoding)


class Truncated(FrameFault):
    title: ClassVar[str] = "a stream message is cut: in the frame, then the socket closes, or in its JSON"

    variant: Literal["frame", "content"] = Field("frame", description="content: a whole frame with half a message")
    kind: Kind | None = Field(None, description="update, data or control messages only; absent: any")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if self.kind not in (None, message.kind) or not self.is_mine(client) or not self.strikes():
            return [message]
        is_text, data = as_bytes(client, message)
        half = data[: len(data) // 2]
        if self.variant == "content":
            return [Outgoing(message.document, message.kind, (is_text, half))]
        client.write(header(len(data), is_text=is_text) + half)
        client.flush()
        client.later(0.05, lambda: client.abort(orderly=True))
        return []


class Oversized(StreamFault):
    title: ClassVar[str] = "a frame announces 2 GiB, is really too long, or claims to be compressed"
    instant: ClassVar[bool] = True

    variant: Literal["announced", "real", "compressed"] = Field("announced", description="what is wrong with it")
    megabytes: int = Field(20, ge=1, le=64, description="size of the real one")

    def begin(self) -> None:
        for client in self.clients():
            if not self.strikes():
                continue
            if self.variant == "announced":
                client.write(struct.pack(">BBQ", 0x82, 127, ANNOUNCED_BYTES) + b"\x00" * 1024)
            elif self.variant == "real":
                length = self.megabytes * 1024 * 1024
                client.write(header(length, is_text=False) + b"\x00" * length)
            else:  # RSV1 set, as permessage-deflate does, and no deflated data
                client.write(b"\xc2\x05\xff\xff\xff\xff\xff")


class Garbage(FrameFault):
    title: ClassVar[str] = "frames of random bytes or HTML, or valid messages with bytes changed"

    mode: Literal["random", "html", "mutated"] = Field(
        "random", description="random, html: `count` frames at once to each stream; mutated: messages are damaged"
    )
    count: int | None = Field(1, ge=1, description="frames")

    def begin(self) -> None:
        if self.mode == "mutated":
            return
        clients = list(self.clients())
        for _ in range(self.count or 1):
            for client in clients:
                client.emit(Outgoing(None, "control", self._rubbish(client)))
            self.note()

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if self.mode != "mutated" or not self.is_mine(client) or not self.strikes():
            return [message]
        _, data = as_bytes(client, message)
        raw = bytearray(data)
        for _ in range(max(1, len(raw) // 20)):
            raw[self.services.random.randrange(len(raw))] = self.services.random.randrange(256)
        # Random bytes are seldom UTF-8, which a text frame must be: the damage is in the message, not in the frame.
        return [Outgoing(message.document, message.kind, (False, bytes(raw)))]

    def _rubbish(self, client: StreamSocket) -> tuple[bool, bytes]:
        if self.mode == "html":
            return client.encoding.is_text, NOT_JSON
        return False, self.services.random.randbytes(self.services.random.randrange(2, 200))


class UnknownMessage(FrameFault):
    title: ClassVar[str] = "messages of an unknown stream or type, or unknown fields in known ones"

    variant: Literal["type", "fields"] = Field("type", description="type: `count` messages are sent at once")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def begin(self) -> None:
        if self.variant != "type":
            return
        clients = list(self.clients())
        for _ in range(self.count or 1):
            for client in clients:
                client.emit(Outgoing(self._stranger(client), "control"))
            self.note()

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if self.variant == "type" or not self.is_mine(client) or not self.strikes():
            return [message]
        return [Outgoing(_with_unknown_fields(message.document), message.kind)]

    def _stranger(self, client: StreamSocket) -> Any:
        if self.streams.is_trading(client):
            return {"stream": "account_updates_v9", "data": {"hello": "world"}}
        return [{"T": "zz", "S": "AAPL", "hello": "world"}]


def _with_unknown_fields(document: Any) -> Any:
    """The document with a field of no schema in every object that clients look at."""
    if isinstance(document, list):
        return [_with_unknown_fields(each) for each in document]
    changed = {**document, "zz_new": {"hello": ["world", None, 1.5]}}
    if isinstance(changed.get("data"), dict):
        changed["data"] = _with_unknown_fields(changed["data"])
    if isinstance(changed.get("order"), dict):
        changed["order"] = {**changed["order"], "zz_new": "hello"}
    return changed


class NullData(StreamFault):
    title: ClassVar[str] = 'trading streams get {"stream":"trade_updates","data":null}'
    instant: ClassVar[bool] = True

    stream: Literal["trading"] = Field("trading", description="trading streams only")

    def begin(self) -> None:
        for client in self.clients():
            if client.account_id is not None and self.strikes():
                client.emit(Outgoing({"stream": "trade_updates", "data": None}, "control"))


class HeartbeatByte(StreamFault):
    title: ClassVar[str] = "a binary frame of the one byte 0x01, an old heartbeat"
    instant: ClassVar[bool] = True

    stream: Literal["trading"] = Field("trading", description="trading streams only")

    def begin(self) -> None:
        for client in self.clients():
            if self.strikes():
                client.emit(Outgoing(None, "control", (False, HEARTBEAT)))


class StreamError(StreamFault):
    title: ClassVar[str] = "an error frame out of the blue: error_message on trading, a code on data streams"
    instant: ClassVar[bool] = True

    code: Literal[400, 401, 402, 405, 406, 407, 409, 500] = Field(500, description="code on data streams")
    text: str = Field("internal error", description="error_message on trading streams")
    close: bool = Field(False, description="close the stream afterwards")

    def begin(self) -> None:
        for client in self.clients():
            if not self.strikes():
                continue
            if self.streams.is_trading(client):
                client.emit(Outgoing({"action": "error", "data": {"error_message": self.text}}, "control"))
            else:
                self.streams.data.refuse(client, self.code)
            if self.close:
                client.close(1011, "error")
