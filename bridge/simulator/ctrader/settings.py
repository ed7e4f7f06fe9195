"""Settings of one simulator: what to listen on, who lives in it, how prices move and how strict it is.

Plain values with defaults; the command line (`cli.py`) and tests fill them in. It must not open anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class RefreshVariant(StrEnum):
    """What a token refresh does to sessions opened with the old token (reference/ctrader.md §2.3 has both seen)."""

    SURVIVE = "survive"  # 2147 is sent; the session still answers and a new account auth gets ALREADY_LOGGED_IN
    INVALIDATE = "invalidate"  # 2147 is sent and the account sessions are over
    DISCONNECT = "disconnect"  # as INVALIDATE, followed by 2164 for every account


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Ports: 0 = any free one, None = do not listen. Times in seconds, rates per second."""

    host: str = "127.0.0.1"
    ctrader_port: int = 0
    ctrader_live_port: int = 0
    ctrader_tls_port: int | None = 0
    admin_port: int = 0
    seed: int = 1
    users: int = 3
    # Prices: "walk" (seeded random walk), "frozen", or the path of a CSV file `time_ms,symbol,bid,ask` to replay.
    prices: str = "walk"
    # Symbols in that file which another broker replays.
    strangers: frozenset[str] = frozenset()
    # Multiplies how fast prices (and a CSV replay) move; requests, heartbeats and budgets keep real time.
    speed: float = 1.0
    requests_per_second: int = 50
    # None: a tenth of requests_per_second, as on the real server (50 and 5).
    history_requests_per_second: int | None = None
    cert_dir: Path | None = None
    credentials: Path | None = None
    client_id: str = "sim-client"
    client_secret: str = "sim-secret"
    # Deposit of every user's first account, in whole units of its currency (JPY accounts get a hundred times that).
    deposit: int = 100_000
    idle_cutoff_s: float = 30.0
    heartbeat_s: float = 25.0
    connection_limit: int | None = None
    refresh_variant: RefreshVariant = RefreshVariant.INVALIDATE
    access_token_life_s: int = 2_628_000
    code_life_s: float = 60.0
    # History answers this much later than the closing event (reference/ctrader.md §4.3).
    history_lag_s: float = 0.0
    deals_page: int = 500

    @property
    def history_rate(self) -> int:
        """Historical requests per second and connection."""
        if self.history_requests_per_second is not None:
            return self.history_requests_per_second
        return max(1, self.requests_per_second // 10)
