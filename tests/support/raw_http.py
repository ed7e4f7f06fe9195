"""HTTP by hand over a plain socket, for what no client library would send."""

import asyncio
import json
from dataclasses import dataclass


@dataclass
class RawAnswer:
    """The first answer on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """The `type` of a problem document, else ""."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(json.loads(self.body)["type"])


async def read_answer(reader: asyncio.StreamReader) -> RawAnswer:
    """Read one answer with a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return RawAnswer(int(lines[0].split()[1]), headers, body)


async def exchange(port: int, data: bytes, *, within_s: float = 15.0) -> RawAnswer:
    """Send bytes, return the first answer."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await read_answer(reader)
        finally:
            writer.close()
