"""Settings of the simulated Alpaca: what to listen on, who lives in it, how prices move and how strict it is.

Plain values with defaults; the command line and tests fill them in. It must not open anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
    # A stream whose client vanished without closing keeps its slot this long (reference §2.3).
    slot_seconds: float = 90.0
    # What the second trading stream of an account is told when its handshake did not say whose it is.
    slot_busy_status: Literal["exceeded", "unauthorized"] = "exceeded"
    # Nobody knows how long the real trading stream waits for authentication (reference §9).
    trading_auth_seconds: float = 10.0
    # A data stream must authenticate within this time (reference §3.2).
    data_auth_seconds: float = 10.0
    # Data connections per endpoint and user; None = no limit (reference §3.4: one).
    data_connection_limit: int | None = 1
    # Symbols with trades or quotes on one iex connection; None = no limit (reference §3.4: 30 on the free plan).
    data_symbol_limit: int | None = 30
    # Whether users may read /v2/sip (code 409 otherwise).
    sip_allowed: bool = True
    # How late /v2/delayed_sip is.
    delayed_seconds: float = 900.0
    # Length of a minute of market time, for bars, at speed 1.
    minute_seconds: float = 60.0
    # A stream's client that leaves more bytes than this unread is cut; the kernel's buffers come on top.
    max_unread_bytes: int = 8 * 1024 * 1024
    # Longest message of a stream's client, reassembled, in bytes.
    max_message_bytes: int = 4 * 1024 * 1024
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
