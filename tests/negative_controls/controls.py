"""The controls: what is broken, which promise that breaks (reference/faults.md §3), and which tests must notice."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.negative_controls import breakages

FAULTS = "tests/faults"


@dataclass(frozen=True)
class Control:
    """`invariant`: its number in reference/faults.md §3. `tests`: arguments for pytest, of which one at least must fail
    in itself; or `seeds`: of so many seeds of the simulation one at least must break that very invariant."""

    invariant: int
    says: str
    breaks: Callable[[], None]
    tests: tuple[str, ...] = ()
    seeds: int = 0


def _faults(*ids: str) -> tuple[str, ...]:
    return (FAULTS, *(f"--fault={fault_id}" for fault_id in ids))


CONTROLS: dict[str, Control] = {
    "fresh-by-itself": Control(
        1, "a record says it was confirmed just now, whenever it is made", breakages.fresh_by_itself, _faults("N03")
    ),
    "never-renewed": Control(13, "records of unchanged accounts are not renewed", breakages.never_renewed, seeds=20),
    "required-unchecked": Control(
        2, "messages are believed without IsInitialized", breakages.required_unchecked, _faults("N15")
    ),
    "one-bad-answer-believed": Control(
        2, "one empty snapshot removes everything", breakages.one_bad_answer_believed, _faults("N23")
    ),
    "buffer-forgotten": Control(
        2,
        "what happened while a snapshot was on its way is dropped",
        breakages.buffer_forgotten,
        ("tests/contract/test_broker_doubt.py",),
    ),
    "fence-ignored": Control(
        3, "stores compare versions only", breakages.fence_ignored, ("tests/contract/test_store_contract.py",)
    ),
    "fence-ignored-in-time": Control(
        3, "stores compare versions only, seen by the simulation", breakages.fence_ignored, seeds=60
    ),
    "fence-not-raised": Control(
        4,
        "a change of owner leaves the fences of records as they are",
        breakages.fence_not_raised,
        ("tests/integration/test_fleet_postgres.py",),
    ),
    "nobody-dials-again": Control(9, "a lost session waits for ever", breakages.nobody_dials_again, seeds=20),
    "budget-ignored": Control(10, "requests leave as fast as they come", breakages.budget_ignored, seeds=60),
    "foreign-event-believed": Control(
        11,
        "an event for an account that is not here goes to one that is",
        breakages.foreign_event_believed,
        _faults("N18"),
    ),
    "tasks-left-behind": Control(
        12, "every change of a session leaves tasks that nobody ends", breakages.tasks_left_behind, seeds=20
    ),
    "one-row-stops-all": Control(
        13,
        "an account that cannot be told keeps the others' records back",
        breakages.one_row_stops_all,
        ("tests/unit/cache",),
    ),
    "secrets-printed": Control(14, "a secret prints itself", breakages.secrets_printed, ("tests/unit/core",)),
    "stopped-but-connected": Control(
        15, "a stopped session stays logged in", breakages.stopped_but_connected, seeds=60
    ),
    "stop-not-stored": Control(
        16,
        "a stop is answered and not stored",
        breakages.stop_not_stored,
        ("tests/integration/test_durable_sessions.py",),
    ),
    "used-before-committed": Control(
        17,
        "a new token is used before it is stored",
        breakages.used_before_committed,
        ("tests/faults/test_broker_refresh_crashes.py",),
    ),
    "nobody-queues": Control(
        18, "who waits for a login takes no place in the queue", breakages.nobody_queues, seeds=20
    ),
    "versions-stand-still": Control(
        19, "a changed record keeps its version", breakages.versions_stand_still, ("tests/unit/cache",)
    ),
    "renews-without-saying": Control(
        20, "tokens are renewed and the audit trail says nothing", breakages.renews_without_saying, seeds=60
    ),
}
