"""What one seed decides before anything runs: how large the world is, how it is set, how often things fail."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

BROKERS = ("ctrader", "alpaca")


@dataclass(frozen=True, slots=True)
class Knobs:
    """Times in seconds. `layout`: where records are: "postgres", "postgres+redis" or "redis" (ownership is always in
    the database). `hears`: whether processes are told of commands at once. Rates are shares of calls or of bytes' ways.
    `turbulence`: how likely an operation is a fault. `slot_s`: how long Alpaca keeps
    the slot of a stream that has vanished. `crash_share`: chance of a crash at each boundary crossing.
    """

    processes: int
    most_processes: int
    users: int
    brokers: tuple[str, ...]
    layout: str
    lease_s: float
    flush_s: float
    hears: bool
    steps: int
    pause_s: float
    turbulence: float
    crash_share: float
    refuses: float
    loses_request: float
    loses_reply: float
    delays: float
    slices: bool
    latency_s: float
    wall_skew_ms: int
    always: bool
    channels: int
    accounts_per_channel: int | None
    requests_per_second: int
    refresh_variant: str
    partial_fills: float
    slot_s: float


def draw(rng: Random, steps: int | None = None) -> Knobs:
    """The knobs of a seed."""
    calm = rng.random() < 0.15  # a share of the seeds sees few faults, so that other things can happen
    requests = rng.choice([10, 20, 50])
    brokers = rng.choices([("ctrader",), ("alpaca",), BROKERS], weights=[5, 2, 3])[0]
    return Knobs(
        processes=rng.choice([1, 2, 2, 3]),
        most_processes=4,
        users=rng.randint(1, 4),
        brokers=brokers,
        layout=rng.choice(["postgres", "postgres+redis", "postgres+redis", "redis"]),
        lease_s=rng.choice([3.0, 6.0, 15.0]),
        flush_s=rng.choice([0.25, 1.0, 2.0, 2.0, 4.0]),
        hears=rng.random() < 0.6,
        steps=steps or rng.randint(15, 40),
        pause_s=rng.choice([0.3, 1.0, 2.0]),
        turbulence=0.15 if calm else rng.uniform(0.3, 0.6),
        crash_share=0.0 if calm else rng.choice([0.0, 0.0005, 0.002]),
        refuses=0.0 if calm else rng.choice([0.0, 0.01, 0.05]),
        loses_request=0.0 if calm else rng.choice([0.0, 0.01, 0.03]),
        loses_reply=0.0 if calm else rng.choice([0.0, 0.01, 0.05]),
        delays=0.0 if calm else rng.choice([0.0, 0.05, 0.2]),
        slices=rng.random() < 0.5,
        latency_s=rng.choice([0.001, 0.02, 0.15]),
        wall_skew_ms=rng.choice([0, 0, 200]),
        always=rng.random() < 0.2,
        channels=rng.choice([1, 1, 2]),
        accounts_per_channel=rng.choice([None, None, 1, 2]),
        requests_per_second=requests,
        refresh_variant=rng.choice(["survive", "invalidate", "disconnect"]),
        partial_fills=rng.choice([0.0, 0.1, 0.5]),
        slot_s=rng.choice([20.0, 20.0, 90.0]),
    )
