"""The sending side of Alpaca's events, in a process of its own: as many trade updates as the other end can take.

It is a relay in front of the simulator, so that our adapter logs in over the real protocol; on command it writes
prepared frames into that connection. Its second port is for `alpaca-py`, which is let in and gets the very same bytes.
"""

from __future__ import annotations

import copy
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from scripts.benchmarks.children import commands, say
from scripts.benchmarks.relay import SOCKET, Relay

LIFE = ("new", "fill")  # what is kept of each order that passes, and sent again
ORDERS = 2  # one that buys and one that sells, so that the position comes and goes
BATCH = 50  # frames in one write: some 80 KiB
TIMES = ("timestamp", "at", "created_at", "submitted_at", "updated_at", "filled_at")  # move on from frame to frame
MOMENT = "@@@@-@@-@@T@@:@@:@@.@@@"
EVENTS_PER_MS = 10
ANSWERS = {
    "authenticate": {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}},
    "listen": {"stream": "listening", "data": {"streams": ["trade_updates"]}},
}


class Sender(Relay):
    """Two listeners, for our adapter and the other receiver."""

    def __init__(self, simulator_url: str) -> None:
        super().__init__(simulator_url)
        self._passed: list[dict[str, Any]] = []
        self._ready: list[bytes] = []
        self._began_ms = 0
        self.last = ""  # the last execution of what is prepared

    @property
    def captured(self) -> int:
        return len(self._passed)

    async def plain(self, downstream: ServerConnection) -> None:
        """Lets everybody in; from then on only written to."""
        with suppress(ConnectionClosed):
            async for message in downstream:
                answer = ANSWERS[orjson.loads(message)["action"]]
                await downstream.send(orjson.dumps(answer))
                if answer is ANSWERS["listen"]:
                    self.newest["theirs"] = downstream

    def passed(self, message: str | bytes) -> None:
        update = orjson.loads(message)
        if (
            update.get("stream") == "trade_updates"
            and update["data"]["event"] in LIFE
            and self.captured < ORDERS * len(LIFE)
        ):
            self._passed.append(update)
            self._began_ms = time.time_ns() // 1_000_000

    def prepare(self, first: int, frames: int) -> None:
        """Make the frames of one pair of rounds: the orders that passed, again and again, each time new ones."""
        life = [_Template(copy.deepcopy(update)) for update in self._passed]
        made = [
            life[step % len(life)].frame(
                order=(first + step) // len(LIFE),
                execution=first + step,
                at_ms=self._began_ms + (first + step) // EVENTS_PER_MS,
            )
            for step in range(frames)
        ]
        self.last = _uuid(first + frames - 1, 2).decode()
        self._ready = [b"".join(made[at : at + BATCH]) for at in range(0, frames, BATCH)]

    async def blast(self, to: str) -> None:
        """Write what is prepared, as fast as the receiver reads."""
        connection = self.newest[to]
        for batch in self._ready:
            connection.transport.write(batch)
            await connection.drain()


class _Template:
    """A trade update that passed, as a WebSocket frame whose ids and times can be changed in place."""

    def __init__(self, update: dict[str, Any]) -> None:
        data = update["data"]
        for place in (data, data["order"]):
            for name in TIMES:
                if place.get(name) is not None:
                    place[name] = MOMENT + place[name][len(MOMENT) :]
        self._ids = [(str(data["order"]["id"]).encode(), "order")]
        if "execution_id" in data:
            self._ids.append((str(data["execution_id"]).encode(), "execution"))
        if "event_id" in data:
            self._ids.append((str(data["event_id"]).encode(), "event"))
        self._bytes = Frame(Opcode.BINARY, orjson.dumps(update)).serialize(mask=False)

    def frame(self, *, order: int, execution: int, at_ms: int) -> bytes:
        new = {"order": _uuid(order, 1), "execution": _uuid(execution, 2), "event": b"%026d" % execution}
        frame = self._bytes
        for old, which in self._ids:
            if len(old) != len(new[which]):
                raise RuntimeError(f"an id of the {which} has {len(old)} characters")
            frame = frame.replace(old, new[which])
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
        return frame.replace(MOMENT.encode(), f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}".encode())


def _uuid(number: int, kind: int) -> bytes:
    return str(uuid.UUID(int=(kind << 96) + number, version=4)).encode()


async def main(simulator_url: str) -> None:
    sender = Sender(simulator_url)
    async with (
        serve(sender.relay, "127.0.0.1", 0, **SOCKET) as ours,
        serve(sender.plain, "127.0.0.1", 0, **SOCKET) as theirs,
    ):
        say(ours=ours.sockets[0].getsockname()[1], theirs=theirs.sockets[0].getsockname()[1])
        async for command in commands():
            match command.pop("do"):
                case "prepare":
                    sender.prepare(**command)
                case "blast":
                    await sender.blast(**command)
                case "look":
                    pass
            say(captured=sender.captured, last=sender.last)


if __name__ == "__main__":
    import sys

    uvloop.run(main(sys.argv[1]))
