"""How the simulated streams behave where the real broker's behaviour is a plan, a guess or a time.

Plain values with defaults (source: reference/alpaca.md §2.3, §3.2, §3.4). It must not open anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Times in seconds, sizes in bytes."""

    # A stream whose client vanished without closing keeps its slot this long.
    slot_seconds: float = 90.0
    # What the second trading stream of an account is told when its handshake did not say whose it is.
    slot_busy_status: Literal["exceeded", "unauthorized"] = "exceeded"
    # Nobody knows how long the real trading stream waits for authentication (reference §9); data streams wait 10 s.
    trading_auth_seconds: float = 10.0
    data_auth_seconds: float = 10.0
    # Connections per endpoint and user; None = no limit.
    data_connection_limit: int | None = 1
    # Symbols with trades or quotes on one iex connection; None = no limit.
    data_symbol_limit: int | None = 30
    # Whether users may read /v2/sip (code 409 otherwise).
    sip_allowed: bool = True
    # How late /v2/delayed_sip is.
    delayed_seconds: float = 900.0
    # Length of a minute of simulated time.
    minute_seconds: float = 60.0
    # A client that leaves more than this unread is cut; the kernel's buffers come on top.
    max_unread_bytes: int = 8 * 1024 * 1024
    # Longest message of a client, reassembled.
    max_message_bytes: int = 4 * 1024 * 1024
