"""The comparison for Alpaca's events: the unmodified `alpaca-py`, its `TradingStream` with a handler that counts.

Runs under the interpreter of that client's own environment and so must not import anything of ours. Reads and writes
lines of JSON as the other children do (children.py); an event counts when the handler is called with its `TradeUpdate`.
"""

import json
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # the client still uses websockets.legacy

from alpaca.trading.models import TradeUpdate  # noqa: E402
from alpaca.trading.stream import TradingStream  # noqa: E402

WITHIN_S = 120.0


class Counter:
    """Counts events and says when there are enough."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.enough = threading.Event()

    async def take(self, update: TradeUpdate) -> None:
        self.count += 1
        if self.count == self.wanted:
            self.enough.set()


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def timed(counter: Counter, frames: int) -> dict[str, float]:
    """Wall and processor time from the word to the sender until the last event."""
    base = counter.count
    counter.wanted = base + frames
    counter.enough.clear()
    say(armed=True)
    wall, processor = time.perf_counter(), time.process_time()
    if not counter.enough.wait(WITHIN_S):
        raise TimeoutError(f"{counter.count - base} of {frames} events came")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "perSecond": frames / wall,
        "cpuUs": processor / frames * 1e6,
        "busy": processor / wall,
        "surplus": counter.count - base - frames,
    }


def main(port: str) -> None:
    counter = Counter()
    stream = TradingStream("SIMKEY1", "sim-alpaca-secret-1", url_override=f"ws://127.0.0.1:{port}/stream")
    stream.subscribe_trade_updates(counter.take)
    threading.Thread(target=stream.run, daemon=True).start()
    while not stream._running:
        time.sleep(0.01)  # until the next look: the client tells nobody
    say(ready=True)
    for line in sys.stdin:
        say(**timed(counter, json.loads(line)["frames"]))


if __name__ == "__main__":
    main(sys.argv[1])
