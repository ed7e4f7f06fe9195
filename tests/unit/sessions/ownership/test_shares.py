"""Fair shares: everybody is served, nothing moves to and fro, and what is given up finds a taker."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bridge.sessions.ownership.shares import (
    HAND_OVER_AT_ONCE,
    LEAST_EXCESS,
    PROVEN_LEASES,
    TOLERANCE,
    Decision,
    Member,
    Reading,
    backlog,
    decide,
    shares,
)

TTL_S = 15.0


def member(owner: str, load: int = 0, *, capacity: int = 1000, draining: bool = False, age_s: float = 1e6) -> Member:
    return Member(owner, capacity, load, draining, age_s, TTL_S)


class Fleet:
    """Processes that look in turn, and act on what they see; sessions know who owned them."""

    def __init__(self, sessions: int) -> None:
        self.owners: list[str | None] = [None] * sessions
        self.members: dict[str, Member] = {}
        self.moves = [0] * sessions
        self.waiting_s = 0.0

    def join(self, owner: str, capacity: int = 1000, age_s: float = 1e6) -> None:
        self.members[owner] = member(owner, capacity=capacity, age_s=age_s)

    def leave(self, owner: str) -> None:
        del self.members[owner]
        self.owners = [None if each == owner else each for each in self.owners]

    def reading(self) -> Reading:
        loads = {name: self.owners.count(name) for name in self.members}
        now = tuple(replace(each, load=loads[each.owner]) for each in self.members.values())
        return Reading(now, len(self.owners), self.owners.count(None))

    def look(self, owner: str) -> Decision:
        reading = self.reading()
        decision = decide(reading, owner, ttl_s=TTL_S, waiting_s=self.waiting_s)
        assert 0 <= decision.claim <= reading.free
        free = [index for index, each in enumerate(self.owners) if each is None]
        for index in free[: decision.claim]:
            self.owners[index] = owner
            self.moves[index] += 1
        held = [index for index, each in enumerate(self.owners) if each == owner]
        assert decision.give_up <= len(held)
        for index in held[: decision.give_up]:
            self.owners[index] = None
        return decision

    def round(self, order: list[str] | None = None) -> bool:
        """Everybody looks once; True when something moved."""
        decisions = [self.look(owner) for owner in order or list(self.members)]
        return any(each != Decision() for each in decisions)

    def settle(self) -> None:
        for _ in range(len(self.owners) + 10):
            if not self.round():
                return
        raise AssertionError("it never comes to rest")


capacities = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(capacities, st.integers(0, 5000))
def test_shares_have_room_for_all_and_follow_capacity(weights: list[int], total: int) -> None:
    members = [member(f"p{at}", capacity=weight) for at, weight in enumerate(weights)]
    found = shares(members, total)
    assert total <= sum(found.values()) < total + len(members)
    for each in members:
        assert abs(found[each.owner] - total * each.capacity / sum(weights)) < 1


def test_draining_process_has_no_share_unless_nobody_else_is_there() -> None:
    assert shares([member("a", draining=True), member("b")], 10) == {"a": 0, "b": 10}
    assert shares([member("a", draining=True)], 10) == {"a": 10}


@given(capacities, st.integers(0, 300), st.data())
def test_everything_is_claimed_and_rests_whatever_the_order_of_looks(
    weights: list[int], total: int, data: st.DataObject
) -> None:
    fleet = Fleet(total)
    for at, weight in enumerate(weights):
        fleet.join(f"p{at}", weight)
    fleet.round(data.draw(st.permutations(list(fleet.members))))
    assert None not in fleet.owners
    fleet.settle()
    assert max(fleet.moves, default=0) <= 1


@given(st.integers(0, 400), st.lists(st.sampled_from(["join", "leave"]), max_size=6), st.data())
def test_nothing_moves_to_and_fro_when_processes_come_and_go(
    total: int, events: list[str], data: st.DataObject
) -> None:
    fleet = Fleet(total)
    fleet.join("p0")
    fleet.settle()
    for at, event in enumerate(events, 1):
        before = list(fleet.moves)
        if event == "join":
            fleet.join(f"p{at}", data.draw(st.integers(100, 2000)))
        elif len(fleet.members) > 1:
            fleet.leave(data.draw(st.sampled_from(sorted(fleet.members))))
        fleet.settle()
        assert None not in fleet.owners
        assert all(after - moved <= 1 for after, moved in zip(fleet.moves, before, strict=True))
        reading = fleet.reading()
        for name, share in shares(reading.members, total).items():
            mine = reading.member(name)
            assert mine is not None
            assert mine.load <= share + max(LEAST_EXCESS, TOLERANCE * share)


@given(st.integers(1, 300), st.integers(1, 4))
def test_drained_process_ends_up_empty_and_the_rest_hold_all(total: int, others: int) -> None:
    fleet = Fleet(total)
    for at in range(others + 1):
        fleet.join(f"p{at}")
    fleet.settle()
    fleet.members["p0"] = replace(fleet.members["p0"], draining=True)
    fleet.settle()
    assert "p0" not in fleet.owners
    assert None not in fleet.owners


def test_last_process_keeps_its_sessions_although_it_should_drain() -> None:
    reading = Reading((member("a", 10, draining=True),), 10, 0)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0) == Decision()
    assert decide(replace(reading, free=2, total=12), "a", ttl_s=TTL_S, waiting_s=0).claim == 2


def test_newcomer_gets_what_is_free_but_nobody_elses_before_it_has_proved_itself() -> None:
    young = member("b", age_s=PROVEN_LEASES * TTL_S - 1)
    reading = Reading((member("a", 100), young), 110, 10)
    assert decide(reading, "b", ttl_s=TTL_S, waiting_s=0).claim == 10
    settled = Reading((member("a", 100), replace(young, load=10)), 110, 0)
    assert decide(settled, "a", ttl_s=TTL_S, waiting_s=0) == Decision()
    proven = replace(settled, members=(member("a", 100), member("b", 10, age_s=PROVEN_LEASES * TTL_S)))
    assert decide(proven, "a", ttl_s=TTL_S, waiting_s=0) == Decision(give_up=HAND_OVER_AT_ONCE, more=True)


def test_small_difference_moves_nobody() -> None:
    reading = Reading((member("a", 52), member("b", 44)), 96, 0)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0) == Decision()
    reading = Reading((member("a", 54), member("b", 42)), 96, 0)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0) == Decision(give_up=6)


def test_nothing_more_is_given_up_than_there_is_room_for_while_some_still_waits() -> None:
    reading = Reading((member("a", 60), member("b", 20)), 100, 20)
    assert decide(replace(reading, free=0, total=80), "a", ttl_s=TTL_S, waiting_s=0).give_up == 20
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0).give_up == 10
    young = Reading((member("a", 60), member("b", 20), member("young", 0, age_s=1)), 90, 10)  # who claims is not known
    assert decide(young, "a", ttl_s=TTL_S, waiting_s=0).give_up == 0


def test_no_more_is_given_up_than_the_takers_log_in() -> None:
    fast, slow = member("fast", 10), replace(member("slow", 10), backlog=HAND_OVER_AT_ONCE - 5)
    reading = Reading((member("a", 280), fast, slow), 300, 0)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0) == Decision(give_up=HAND_OVER_AT_ONCE, more=True)
    both = replace(reading, members=(member("a", 280), replace(fast, backlog=HAND_OVER_AT_ONCE + 9), slow))
    assert decide(both, "a", ttl_s=TTL_S, waiting_s=0) == Decision(give_up=5, more=True)
    busy = (replace(fast, backlog=99), replace(slow, backlog=99))
    full = replace(reading, members=(member("a", 280, draining=True), *busy))
    assert decide(full, "a", ttl_s=TTL_S, waiting_s=0) == Decision(more=True)


def test_backlog_is_what_was_not_said_to_be_past_its_login() -> None:
    said = {"x live": 5, "y action_required": 1, "x stale": 2, "x starting": 4, "y syncing": 1, "x stopped": 7}
    assert backlog(13, said) == 5
    assert backlog(20, {}) == 20  # claimed, and nothing said of it yet
    assert backlog(3, said) == 0  # some have gone since


def test_what_nobody_claims_is_claimed_beyond_the_share_after_a_while() -> None:
    reading = Reading((member("a", 50), member("frozen", 0)), 100, 50)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=TTL_S - 1).claim == 0
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=TTL_S).claim == 50


def test_session_that_an_operator_wants_here_is_claimed_beyond_the_share() -> None:
    reading = Reading((member("a", 60), member("b", 39)), 100, 1, reserved=1)
    assert decide(reading, "a", ttl_s=TTL_S, waiting_s=0) == Decision(claim=1)


def test_process_without_a_lease_decides_nothing() -> None:
    assert decide(Reading((member("a"),), 10, 10), "b", ttl_s=TTL_S, waiting_s=1e9) == Decision()
