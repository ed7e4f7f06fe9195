"""Requests that nobody waits for any more, and what they still count for."""

from random import Random

import pytest

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader.requests import Pending, Requests
from bridge.brokers.ctrader.scheduling import SILENT_S, WINDOW_S, Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import ManualClock
from core.secret import Secret
from protos.ctrader import messages_pb2
from tests.support.simulator_probe import payload_type

RATE, HARD = 9, 10


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sent: list[bytes] = []
        settings = CtraderSettings("client", Secret("a-secret-of-the-tests"), requests_per_second=RATE)
        self.requests = Requests(settings, self.clock, Random(1), Stats(), self._transmit, lambda: None)

    def _transmit(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return True

    def ask(self, count: int, timeout_s: float = 60.0) -> list[Pending]:
        kind = payload_type(messages_pb2.ProtoOATraderReq())
        asked = [self.requests.submit(kind, b"", Priority.SNAPSHOT, timeout_s) for _ in range(count)]
        self.requests.pump()
        return asked

    def answer(self, request: Pending) -> None:
        kind = payload_type(messages_pb2.ProtoOATraderRes())
        self.requests.answer(request.message_id, kind, b"")


async def test_given_up_requests_count_until_the_broker_has_answered_them() -> None:
    """It may be behind: what it has not read yet, it counts later, together with what is sent meanwhile."""
    rig = Rig()
    asked = rig.ask(RATE)
    for request in asked:
        rig.requests.abandon(request)
    rig.clock.advance(WINDOW_S + 0.1)
    rig.ask(RATE)
    assert len(rig.sent) == HARD
    for request in asked:
        rig.answer(request)
    assert len(rig.sent) == HARD
    rig.clock.advance(WINDOW_S)
    rig.requests.pump()
    assert len(rig.sent) == 2 * RATE


async def test_late_requests_count_until_the_broker_has_answered_them() -> None:
    rig = Rig()
    asked = rig.ask(RATE, timeout_s=0.5)
    rig.clock.advance(0.6)
    rig.requests.pump()
    for request in asked:
        with pytest.raises(BrokerFault):
            await rig.requests.result(request)
    rig.clock.advance(WINDOW_S)
    rig.ask(RATE)
    assert len(rig.sent) == HARD
    for request in asked:
        rig.answer(request)
    rig.clock.advance(WINDOW_S)
    rig.requests.pump()
    assert len(rig.sent) == 2 * RATE


async def test_given_up_requests_that_are_never_answered_hold_up_others_for_a_while_only() -> None:
    rig = Rig()
    for request in rig.ask(RATE):
        rig.requests.abandon(request)
    rig.clock.advance(SILENT_S + WINDOW_S + 0.1)
    rig.ask(1)
    rig.clock.advance(WINDOW_S)
    rig.requests.pump()
    assert len(rig.sent) == RATE + 1
    rig.clock.advance(100.0)
    rig.requests.pump()
    assert rig.requests.unanswered == 0


async def test_given_up_request_that_was_not_sent_is_never_sent() -> None:
    rig = Rig()
    waiting = rig.ask(RATE + 1)[-1]
    rig.requests.abandon(waiting)
    rig.clock.advance(WINDOW_S + 0.1)
    rig.requests.pump()
    assert len(rig.sent) == RATE
