"""Heartbeat, probe and death, by the numbers of DESIGN §5."""

from bridge.brokers.ctrader.liveness import Act, Liveness


def make() -> Liveness:
    liveness = Liveness(heartbeat_s=10.0, probe_after_s=5.0, probe_timeout_s=5.0)
    liveness.start(100.0, 0)
    return liveness


def test_heartbeat_leaves_every_ten_seconds_when_the_peer_talks() -> None:
    liveness = make()
    beats = []
    for second in range(101, 141):
        liveness.heard(float(second), second - 101)
        beats += [second for act in liveness.check(float(second), second - 100) if act is Act.HEARTBEAT]
    assert beats == [110, 120, 130, 140]


def test_probe_then_death_when_nothing_comes_in() -> None:
    liveness = make()
    assert liveness.due_at() == 105.0
    assert liveness.check(104.9, 0) == []
    assert liveness.check(105.0, 0) == [Act.PROBE]
    assert liveness.check(109.9, 0) == []
    assert liveness.due_at() == 110.0
    assert liveness.check(110.0, 0) == [Act.HEARTBEAT, Act.DEAD]


def test_any_message_counts_as_life_when_it_comes_after_the_probe() -> None:
    liveness = make()
    assert liveness.check(105.0, 0) == [Act.PROBE]
    liveness.heard(109.0, 0)
    assert liveness.check(110.0, 1) == [Act.HEARTBEAT]
    assert liveness.due_at() == 114.0
    assert liveness.check(114.0, 1) == [Act.PROBE]


def test_a_trickle_is_silence_when_it_makes_up_no_message() -> None:
    liveness = make()
    acts = []
    for second in range(101, 111):
        liveness.heard(float(second), 0)
        acts += [(second, act) for act in liveness.check(float(second), 0)]
    assert acts == [(105, Act.PROBE), (110, Act.HEARTBEAT), (110, Act.DEAD)]
    assert liveness.last_inbound == 110.0


def test_the_message_is_timed_by_the_bytes_that_completed_it_when_more_bytes_follow() -> None:
    liveness = make()
    liveness.heard(102.0, 0)  # completes a message
    liveness.heard(104.0, 1)  # the beginning of the next
    assert liveness.due_at() == 107.0


def test_one_probe_is_enough_when_checked_often() -> None:
    liveness = make()
    acts = [act for tenth in range(1050, 1090) for act in liveness.check(tenth / 10, 0)]
    assert acts == [Act.PROBE]
