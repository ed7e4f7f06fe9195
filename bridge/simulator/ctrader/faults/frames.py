"""Faults of what goes out as bytes: cut, oversized, random, damaged or unknown frames, and odd heartbeats."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.simulator.ctrader.envelope import Outgoing, wrap
from bridge.simulator.ctrader.faults.base import Fault, FrameFault
from bridge.simulator.ctrader.wire import TcpWire
from protos.ctrader import common_messages_pb2 as common

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection

UNKNOWN_PAYLOAD_TYPE = 9_999
# Field 999, length-delimited: a field no schema of ours has.
UNKNOWN_FIELD = b"\xba\x3e\x05hello"
ANNOUNCED_BYTES = 1 << 31


class Truncated(FrameFault):
    title: ClassVar[str] = "a frame is cut in the middle, then the socket closes"

    message: str | None = Field(None, description="message name to wait for, such as ProtoOAReconcileRes; absent: any")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if self.message not in (None, outgoing.message.DESCRIPTOR.name):
            return [outgoing]
        if connection.wire is None or not self.hits(outgoing.account_id, connection):
            return [outgoing]
        raw = outgoing.encode()
        connection.write(connection.wire.header(len(raw)) + raw[: len(raw) // 2])
        connection.flush()
        connection.later(0.05, connection.abort)
        return []


class Oversized(Fault):
    title: ClassVar[str] = "a frame announces 2 GiB, is really too long, or claims to be compressed"
    instant: ClassVar[bool] = True

    variant: Literal["announced", "real", "compressed"] = Field("announced", description="what is wrong with it")
    megabytes: int = Field(20, ge=1, le=64, description="size of the real one")

    def begin(self) -> None:
        for connection in self.connections():
            if connection.wire is None or not self.strikes():
                continue
            tcp = isinstance(connection.wire, TcpWire)
            if self.variant == "announced":
                header = struct.pack(">I", ANNOUNCED_BYTES) if tcp else struct.pack(">BBQ", 0x82, 127, ANNOUNCED_BYTES)
                connection.write(header + b"\x00" * 1024)
            elif self.variant == "real":
                connection.send_raw(b"\x00" * (self.megabytes * 1024 * 1024))
            else:  # RSV1 set, as permessage-deflate does, which nobody negotiated
                connection.write(b"\xc2\x05\xaa\x56\x4a\x4d\x01" if not tcp else struct.pack(">I", 5) + b"\xaa\x56\x4a")


class Garbage(FrameFault):
    title: ClassVar[str] = "frames of random bytes, or valid frames with bytes changed"

    mode: Literal["random", "mutated"] = Field("random", description="random: `count` frames are sent at once")
    count: int | None = Field(1, ge=1, description="frames")

    def begin(self) -> None:
        if self.mode != "random":
            return
        total = self.count or 1
        for _ in range(total):
            for connection in self.connections():
                connection.send_raw(self.services.random.randbytes(self.services.random.randrange(1, 200)))
            self.note()

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if self.mode == "random" or not self.hits(outgoing.account_id, connection):
            return [outgoing]
        raw = bytearray(outgoing.encode())
        for _ in range(max(1, len(raw) // 20)):
            raw[self.services.random.randrange(len(raw))] = self.services.random.randrange(256)
        return [Outgoing(outgoing.message, outgoing.account_id, raw=bytes(raw))]


class UnknownPayload(FrameFault):
    title: ClassVar[str] = "messages of an unknown payload type, or unknown fields in known ones"

    variant: Literal["type", "fields"] = Field("type", description="type: `count` messages are sent at once")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def begin(self) -> None:
        if self.variant != "type":
            return
        for _ in range(self.count or 1):
            for connection in self.connections():
                connection.send_raw(wrap(UNKNOWN_PAYLOAD_TYPE, b"\x08\x01"))
            self.note()

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if self.variant == "type" or not self.hits(outgoing.account_id, connection):
            return [outgoing]
        payload = outgoing.message.SerializeToString() + UNKNOWN_FIELD
        return [Outgoing(outgoing.message, outgoing.account_id, outgoing.client_msg_id, payload)]


class HeartbeatOdd(Fault):
    title: ClassVar[str] = "the server mutes its heartbeats, or echoes the client's"

    variant: Literal["mute", "echo"] = Field("mute", description="which")

    def received(self, connection: Connection) -> None:
        """A client heartbeat came in."""
        if self.variant == "echo" and self.hits(None, connection):
            connection.send(Outgoing(common.ProtoHeartbeatEvent()))

    def mutes(self, connection: Connection) -> bool:
        return self.variant == "mute" and self.hits(None, connection)
