"""Settings of the simulated Alpaca: what to listen on, who lives in it, how prices move and how strict it is.

Plain values with defaults; the command line and tests fill them in. It must not open anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Ports: 0 = any free one. Times in seconds unless the name says otherwise."""

    host: str = "127.0.0.1"
    alpaca_port: int = 0  # paper: REST, trading stream and data streams
    alpaca_live_port: int = 0  # live: the same
    seed: int = 1
    users: int = 3
    # Prices: "walk" (seeded random walk), "frozen", or the path of a CSV file `time_ms,symbol,bid,ask` to replay.
    prices: str = "walk"
    # Symbols in that file which another broker replays.
    strangers: frozenset[str] = frozenset()
    # Multiplies how fast prices (and a CSV replay) move; requests, pings and budgets keep real time.
    speed: float = 1.0
    # Trading API requests per account and minute (reference/alpaca.md §1.6).
    requests_per_minute: int = 200
    # A trading stream whose client vanished keeps its account's slot this long (reference §2.3).
    slot_seconds: float = 90.0
    # A data stream must authenticate within this time (reference §3.2).
    data_auth_seconds: float = 10.0
    # Symbols with trades or quotes on one data stream; None = no limit (reference §3.4: 30 on the free plan).
    data_symbol_limit: int | None = 30
    # Share of eligible orders that fill partly first (reference §8.1); exact and reproducible by `seed`.
    partial_fill_share: float = 0.1
    # Replaces and cancels are asynchronous: how long pending_cancel and pending_replace last.
    pending_seconds: float = 0.0
    paper_deposit: int = 100_000
    live_deposit: int = 50_000
    client_id: str = "sim-client"
    client_secret: str = "sim-secret"
    code_life_s: float = 600.0
    credentials: Path | None = None
