"""What is kept of a fault: no frames, and an end even of causes that go in a circle."""

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.sessions.failing import _drop_frames


def fault() -> BrokerFault:
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_ERROR, "no"))


def raised_from(error: BaseException, cause: BaseException) -> None:
    try:
        raise error from cause
    except BrokerFault:
        pass


def test_frames_are_dropped_when_causes_go_in_a_circle() -> None:
    first, second = fault(), fault()
    raised_from(first, second)
    raised_from(second, first)
    assert first.__traceback__ is not None
    _drop_frames(first)
    assert first.__traceback__ is None
    assert second.__traceback__ is None


def test_frames_are_dropped_when_a_fault_was_raised_from_itself() -> None:
    one = fault()
    raised_from(one, one)
    _drop_frames(one)
    assert one.__traceback__ is None
