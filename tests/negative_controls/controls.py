"""The controls: what is broken, which promise that breaks (reference/faults.md §3), and which tests must notice."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.negative_controls import breakages


@dataclass(frozen=True)
class Control:
    """`invariant`: its number in reference/faults.md §3. `tests`: arguments for pytest; at least one must fail."""

    invariant: int
    says: str
    breaks: Callable[[], None]
    tests: tuple[str, ...]


CONTROLS: dict[str, Control] = {
    "fresh-by-itself": Control(
        1, "a record says it was confirmed just now, whenever it is made", breakages.fresh_by_itself, ("--fault", "N03")
    ),
    "never-renewed": Control(
        1, "records of unchanged accounts are not renewed", breakages.never_renewed, ("tests/unit/cache",)
    ),
    "required-unchecked": Control(
        2, "messages are believed without IsInitialized", breakages.required_unchecked, ("--fault", "N15")
    ),
    "one-bad-answer-believed": Control(
        2, "one empty snapshot removes everything", breakages.one_bad_answer_believed, ("--fault", "N23")
    ),
    "fence-ignored": Control(
        3,
        "a store takes what an earlier owner writes",
        breakages.fence_ignored,
        ("tests/contract/test_store_contract.py",),
    ),
    "fence-not-raised": Control(
        4,
        "a change of owner leaves the fences of records as they are",
        breakages.fence_not_raised,
        ("tests/integration/test_fleet_postgres.py",),
    ),
    "nobody-dials-again": Control(9, "a lost session waits for ever", breakages.nobody_dials_again, ("--fault", "N01")),
    "budget-ignored": Control(10, "requests leave as fast as they come", breakages.budget_ignored, ("--fault", "N28")),
    "foreign-event-believed": Control(
        11,
        "an event for an account that is not here goes to one that is",
        breakages.foreign_event_believed,
        ("--fault", "N18"),
    ),
    "one-row-stops-all": Control(
        13,
        "an account that cannot be told keeps the others' records back",
        breakages.one_row_stops_all,
        ("tests/unit/cache",),
    ),
    "secrets-printed": Control(
        14,
        "a secret prints itself",
        breakages.secrets_printed,
        ("tests/integration/test_canaries.py", "tests/unit/core"),
    ),
    "stopped-but-connected": Control(
        15, "a stopped session stays logged in", breakages.stopped_but_connected, ("tests/unit/sessions/test_stop.py",)
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
    "versions-stand-still": Control(
        19, "a changed record keeps its version", breakages.versions_stand_still, ("tests/unit/cache",)
    ),
}
