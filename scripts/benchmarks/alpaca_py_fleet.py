"""The comparison for Alpaca's memory: the unmodified `alpaca-py`, a `TradingStream` per user in one process and loop.

Runs under the interpreter of that client's own environment and so must not import anything of ours. It keeps no
account: a stream, its task and its socket are all there is of a user. Grows on command and says how much memory it
holds; users count on from a number that is given, so that nobody else has their accounts.
"""

import asyncio
import gc
import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore", DeprecationWarning)  # the client still uses websockets.legacy

from alpaca.trading.models import TradeUpdate  # noqa: E402
from alpaca.trading.stream import TradingStream  # noqa: E402

AT_ONCE = 50
SETTLE_S = 3.0


def rss_kib() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields.get("RssAnon", fields["VmRSS"]).split()[0])


async def drop(update: TradeUpdate) -> None:
    pass


class Fleet:
    def __init__(self, url: str, first_user: int) -> None:
        self._url = url
        self._first_user = first_user
        self._streams: list[TradingStream] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def grow(self, to: int) -> int:
        """Connect until there are `to` users, and return the memory of the process in KiB."""
        while len(self._streams) < to:
            newest = [self._add() for _ in range(min(AT_ONCE, to - len(self._streams)))]
            while not all(stream._running for stream in newest):  # noqa: ASYNC110 - the client tells nobody
                await asyncio.sleep(0.05)  # until the next look
        await asyncio.sleep(SETTLE_S)
        gc.collect()
        return rss_kib()

    def _add(self) -> TradingStream:
        user = self._first_user + len(self._streams)
        stream = TradingStream(f"SIMKEY{user}", f"sim-alpaca-secret-{user}", url_override=self._url)
        stream.subscribe_trade_updates(drop)
        self._streams.append(stream)
        self._tasks.append(asyncio.get_running_loop().create_task(stream._run_forever()))
        return stream


async def main(url: str, first_user: int) -> None:
    fleet = Fleet(url, first_user)
    print(json.dumps({"ready": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps({"rssKib": await fleet.grow(int(json.loads(line)["to"]))}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
