"""The virtual loop and network: time that jumps, order by seed, owners that die or freeze, lines that fail."""

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from random import Random
from typing import Any

import pytest

from tests.simulation.loop import OWNER, VirtualLoop
from tests.simulation.network import Line, Network


class Somebody:
    dead = frozen = False


class Echo(asyncio.Protocol):
    """Sends back what comes; remembers it and its end."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.heard = b""
        self.ended: list[BaseException | None] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self.answers:
            self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended.append(exc)


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(Random(1))
    yield loop
    loop.end()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


@pytest.fixture
def network(loop: VirtualLoop) -> Network:
    return Network(loop, Random(2))


def test_a_day_passes_at_once_when_everybody_sleeps(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(86_400))
    assert 86_400 <= loop.time() - 1000 < 86_400.1


def test_timers_run_in_their_order_and_ties_in_an_order_of_the_seed() -> None:
    def order(seed: int) -> list[int]:
        loop = VirtualLoop(Random(seed))
        seen: list[int] = []
        for number in range(8):
            loop.call_at(1001.0 + (number == 0), seen.append, number)
        loop.run_until_complete(asyncio.sleep(3))
        loop.close()
        return seen

    assert order(3) == order(3) != order(4)
    assert order(3)[-1] == 0


def test_loop_says_so_when_nobody_can_ever_go_on(loop: VirtualLoop) -> None:
    with pytest.raises(RuntimeError, match="never comes"):
        loop.run_until_complete(loop.create_future())


def test_loop_says_so_when_somebody_spins(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="spins"):
        loop.run_until_complete(spin())


def test_nothing_of_a_dead_owner_runs_not_even_its_finally_until_the_end(loop: VirtualLoop) -> None:
    owner = Somebody()
    seen: list[object] = []
    context = copy_context()
    context.run(OWNER.set, owner)

    async def life() -> None:
        try:
            seen.append("alive")
            await asyncio.sleep(1)
            seen.append("too late")
        finally:
            seen.append("finally")

    task = loop.create_task(life(), context=context)
    loop.run_until_complete(asyncio.sleep(0.5))  # of virtual time: it is amid its own sleep
    owner.dead = True
    loop.run_until_complete(asyncio.sleep(5))
    assert seen == ["alive"]
    loop.end()
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    assert seen[-1] == "finally"


def test_frozen_owner_goes_on_where_it_was_when_it_thaws(loop: VirtualLoop) -> None:
    owner = Somebody()
    seen: list[object] = []
    context = copy_context()
    context.run(OWNER.set, owner)

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(round(loop.time() - 1000))

    loop.create_task(tick(), context=context)
    loop.run_until_complete(asyncio.sleep(1.5))
    owner.frozen = True
    loop.run_until_complete(asyncio.sleep(8.5))
    owner.frozen = False
    loop.thaw()
    loop.run_until_complete(asyncio.sleep(5))
    assert seen == [1, 10, 11]


def test_threads_and_signals_are_refused(loop: VirtualLoop) -> None:
    with pytest.raises(RuntimeError, match="threads"):
        loop.run_in_executor(None, print)
    with pytest.raises(RuntimeError, match="signals"):
        loop.add_signal_handler(15, print)


# ---------------------------------------------------------------- the network


async def dialled(loop: VirtualLoop) -> tuple[Any, Echo, list[Echo]]:
    there: list[Echo] = []

    def accept() -> Echo:
        there.append(Echo())
        return there[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    here = Echo(answers=False)
    transport, _ = await loop.create_connection(lambda: here, "127.0.0.1", server.port)
    await asyncio.sleep(0.1)  # of virtual time: the server has accepted
    return transport, here, there


def test_bytes_arrive_in_order_whatever_their_pieces(loop: VirtualLoop, network: Network) -> None:
    line = Line("broker", slices=True)
    network.line_of = lambda owner, port: line

    async def talk() -> bytes:
        transport, here, _ = await dialled(loop)
        for number in range(200):
            transport.write(bytes([number]) * 7)
        await asyncio.sleep(5)
        return here.heard

    assert loop.run_until_complete(talk()) == b"".join(bytes([number]) * 7 for number in range(200))


def test_silent_line_holds_everything_back_until_it_heals(loop: VirtualLoop, network: Network) -> None:
    line = Line("broker")
    network.line_of = lambda owner, port: line

    async def talk() -> None:
        transport, here, there = await dialled(loop)
        line.silent_in = True
        transport.write(b"question")
        await asyncio.sleep(30)
        assert (there[0].heard, here.heard) == (b"question", b"")
        line.heal()
        await asyncio.sleep(1)
        assert here.heard == b"question"
        line.cut()
        await asyncio.sleep(1)
        assert [type(each) for each in (*here.ended, *there[0].ended)] == [ConnectionResetError] * 2

    loop.run_until_complete(talk())


def test_close_arrives_after_what_was_sent_before(loop: VirtualLoop, network: Network) -> None:
    async def talk() -> None:
        transport, here, there = await dialled(loop)
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(1)
        assert (there[0].heard, there[0].ended, here.ended) == (b"last words", [None], [None])

    loop.run_until_complete(talk())


@pytest.mark.parametrize("dial", ["refused", "silent"])
def test_dial_fails_as_the_line_says(loop: VirtualLoop, network: Network, dial: str) -> None:
    line = Line("broker", dial=dial)
    network.line_of = lambda owner, port: line

    async def talk() -> None:
        async with asyncio.timeout(10):
            await dialled(loop)

    expected = ConnectionRefusedError if dial == "refused" else TimeoutError
    with pytest.raises(expected):
        loop.run_until_complete(talk())
