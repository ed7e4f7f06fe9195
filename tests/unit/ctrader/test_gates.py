"""Maintenance: one login asks whether it is over, the others wait for what it hears."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader.gates import Gate


def maintenance(wait_s: float | None = None) -> BrokerFault:
    return BrokerFault(FaultKind.MAINTENANCE, Reason(ReasonCode.BROKER_MAINTENANCE, "Down."), retry_after_s=wait_s)


async def test_gate_lets_one_probe_through_when_maintenance_should_be_over() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    assert await gate.enter(0.0) is False
    assert gate.refused(maintenance(60.0), 0.0).retry_after_s == 60.0
    with pytest.raises(BrokerFault) as closed:
        await gate.enter(10.0)
    assert closed.value.retry_after_s == 50.0
    assert closed.value.shared
    assert await gate.enter(60.0) is True
    waiting = [asyncio.ensure_future(gate.enter(61.0)) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.passed()
    gate.left()
    assert await asyncio.gather(*waiting) == [False] * 5


async def test_waiting_logins_are_refused_when_the_probe_fails() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    gate.refused(maintenance(), 0.0)
    assert await gate.enter(30.0) is True
    waiting = asyncio.ensure_future(gate.enter(31.0))
    await asyncio.sleep(0)
    assert gate.refused(maintenance(), 32.0).retry_after_s == 60.0  # grows while the broker names no end
    gate.left()
    with pytest.raises(BrokerFault):
        await waiting


async def test_next_login_probes_when_the_probe_was_given_up() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    gate.refused(maintenance(), 0.0)
    assert await gate.enter(30.0) is True
    waiting = [asyncio.ensure_future(gate.enter(31.0)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.left()
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting] == [True, False]
    gate.passed()
    gate.left()
    assert await waiting[1] is False


async def test_answers_of_one_moment_count_once_when_many_logins_were_under_way() -> None:
    gate = Gate(default_s=30.0, cap_s=900.0)
    waits = [gate.refused(maintenance(), 0.0).retry_after_s for _ in range(20)]
    assert waits == [30.0] * 20
