"""Ticks with jitter, and signals."""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest

from bridge.runtime.shutdown import Shutdown
from bridge.runtime.ticker import Ticker


class LoopClock:
    """Virtual time of the running loop."""

    def now_ms(self) -> int:
        return round(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.mark.looptime
async def test_ticks_come_at_their_interval_with_jitter():
    seen = []
    async for due in Ticker(2.0, clock=LoopClock(), rng=random.Random(1), jitter=0.1):
        seen.append(due)
        if len(seen) == 200:
            break
    gaps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert all(1.8 <= gap <= 2.2 for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 100


@pytest.mark.looptime
async def test_missed_ticks_are_not_made_up_when_the_consumer_is_slow():
    seen = []
    async for _ in Ticker(1.0, clock=LoopClock(), rng=random.Random(1), jitter=0.0):
        seen.append(asyncio.get_running_loop().time())
        if len(seen) == 4:
            break
        await asyncio.sleep(3.5)
    assert [round(each, 3) for each in seen] == [1.0, 4.5, 8.0, 11.5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_asks_for_the_end(number: signal.Signals):
    shutdown = Shutdown()
    shutdown.install()
    try:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(shutdown.requested.wait(), 5)
        assert shutdown.cause == number.name
        shutdown.request("later")
        assert shutdown.cause == number.name
    finally:
        shutdown.remove()


@pytest.mark.parametrize("uvloop", [False, True])
def test_the_second_signal_ends_a_process_that_hangs(uvloop: bool):
    script = f"""
        import asyncio, sys
        from bridge.runtime.shutdown import Shutdown
        async def main():
            shutdown = Shutdown()
            shutdown.install()
            print("ready", flush=True)
            await shutdown.requested.wait()
            print("draining", flush=True)
            while True:  # a loop that never turns again
                pass
        factory = None
        if {uvloop}:
            import uvloop
            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
