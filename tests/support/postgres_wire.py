"""The wire protocol of Postgres, as much of it as a pooler speaks: messages, a server's login, SCRAM."""

import asyncio
import base64
import hashlib
import hmac
import os
import struct

PROTOCOL = 196608


class Gone(Exception):
    """A peer went away or said what it must not."""


class Wire:
    """One side of a connection, message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def message(self) -> tuple[bytes, bytes]:
        """The type and the body of the next message."""
        try:
            head = await self.reader.readexactly(5)
            return head[:1], await self.reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Gone from error

    async def startup(self) -> tuple[int, bytes]:
        try:
            length, code = struct.unpack("!II", await self.reader.readexactly(8))
            return code, await self.reader.readexactly(length - 8)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Gone from error

    def send(self, kind: bytes, body: bytes = b"") -> None:
        self.writer.write(kind + struct.pack("!I", len(body) + 4) + body)

    def refuse(self, code: str, text: str) -> None:
        self.send(b"E", b"".join(f"{k}{v}\0".encode() for k, v in (("S", "FATAL"), ("C", code), ("M", text))) + b"\0")

    def close(self) -> None:
        self.writer.close()


class Server:
    """A connection upstream, logged in and idle, or lent."""

    def __init__(self, wire: Wire, user: str, password: str, database: str) -> None:
        self.wire = wire
        self._user, self._password, self._database = user, password, database
        self.parameters: list[bytes] = []
        self.key = b""
        self.cancelling = asyncio.Lock()

    async def log_in(self) -> None:
        words = f"user\0{self._user}\0database\0{self._database}\0application_name\0pooler\0\0".encode()
        self.wire.writer.write(struct.pack("!II", len(words) + 8, PROTOCOL) + words)
        scram = Scram(self._password)
        while True:
            kind, body = await self.wire.message()
            if kind == b"R":
                answer = scram.answer(struct.unpack("!I", body[:4])[0], body[4:])
                if answer is not None:
                    self.wire.send(b"p", answer)
            elif kind == b"S":
                self.parameters.append(body)
            elif kind == b"K":
                self.key = body
            elif kind == b"Z":
                return
            elif kind == b"E":
                raise Gone(body.decode(errors="replace"))

    async def query(self, sql: str) -> list[str]:
        """The first column of what an idle server answers."""
        self.wire.send(b"Q", sql.encode() + b"\0")
        rows = []
        while True:
            kind, body = await self.wire.message()
            if kind == b"D":
                rows.append(body[6:].decode())
            elif kind == b"E":
                raise Gone(body.decode(errors="replace"))
            elif kind == b"Z":
                return rows


class Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802, 7677), without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._first = f"n=,r={base64.b64encode(os.urandom(18)).decode()}"

    def answer(self, step: int, data: bytes) -> bytes | None:
        if step == 10:
            first = f"n,,{self._first}".encode()
            return b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first
        if step == 11:
            return self._proof(data.decode())
        if step in (0, 12):
            return None
        raise Gone(f"the server wants authentication {step}")

    def _proof(self, challenge: str) -> bytes:
        nonce, salt, rounds = (part[2:] for part in challenge.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(salt), int(rounds))
        client = hmac.digest(salted, b"Client Key", "sha256")
        bare = f"c=biws,r={nonce}"
        signed = f"{self._first},{challenge},{bare}".encode()
        signature = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client, signature, strict=True))).decode()
        return f"{bare},p={proof}".encode()
