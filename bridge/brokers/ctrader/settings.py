"""What the cTrader adapter can be told: addresses, application, request rates and every timer.

The timers are settings so that tests can run them faster; the defaults are the production values of DESIGN §5.
Units are in the names: `_s` seconds, rates per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bridge.brokers.base import Environment
from core.secret import Secret


class Quotes(StrEnum):
    """Whose price subscriptions value an account (`CTRADER_QUOTES`)."""

    ACCOUNT = "account"  # its own
    SHARED = "shared"  # one for all accounts with the same prices on a channel


@dataclass(frozen=True, slots=True)
class CtraderSettings:
    """Configuration of the adapter. `accounts_per_channel` None: no limit; 1: one socket per account."""

    client_id: str
    client_secret: Secret
    live_url: str = "wss://live.ctraderapi.com:5035"
    demo_url: str = "wss://demo.ctraderapi.com:5035"
    auth_url: str = "https://id.ctrader.com/my/settings/openapi/grantingaccess/"
    token_url: str = "https://openapi.ctrader.com/apps/token"  # noqa: S105 (an address)
    tls_ca_file: str | None = None  # extra trusted certificate, for simulators and private gateways
    transport: str = "websockets"  # a name of brokers/transports

    channels: int = 1
    accounts_per_channel: int | None = None
    requests_per_second: int = 45  # of 50 that the broker allows per connection
    history_requests_per_second: int = 4  # of 5
    quotes: Quotes = Quotes.ACCOUNT
    max_in_flight: int = 20
    max_queue: int = 20_000

    heartbeat_s: float = 10.0
    probe_after_s: float = 5.0
    probe_timeout_s: float = 5.0
    connect_timeout_s: float = 10.0
    close_timeout_s: float = 1.0
    idle_close_s: float = 30.0

    dials_per_second: int = 5
    handshakes_in_flight: int = 10
    backoff_first_s: float = 1.0
    backoff_cap_s: float = 60.0
    stable_s: float = 60.0

    auth_timeout_s: float = 10.0
    token_timeout_s: float = 10.0  # of a whole request to the token endpoint
    snapshot_timeout_s: float = 15.0
    market_timeout_s: float = 15.0
    reconcile_timeout_s: float = 30.0
    history_timeout_s: float = 15.0
    logout_timeout_s: float = 2.0
    confirm_delay_s: float = 0.5  # between a snapshot that removes what is held and the one that must confirm it
    repair_delay_s: float = 1.0  # between a message that could not be used and the reconcile it asks for
    pnl_check_every_s: float = 5.0  # one account at a time, over the whole adapter
    # Shared quotes: see `checks` and `price_classes`.
    quotes_check_share: float = 0.25  # of a channel's request rate, for comparing figures of accounts that share
    quotes_check_every_s: float = 600.0  # an account whose figures agreed is compared again, at a reconcile
    quotes_look_every_s: float = 50.0  # between two looks at whether an account apart has the common prices again
    quotes_part_again_s: float = 3600.0  # after it came back
    quotes_hand_on_s: float = 1.0  # a logout waits this long for the successor's subscription
    reconcile_floor_s: float = 60.0
    history_lag_s: float = (
        5.0  # the broker's history knows of a deal this long after it at the latest (ctrader.md §4.3)
    )
    deals_overlap_s: float = 60.0  # deals are asked for from this long before the last full reading: clocks differ
    listing_max_age_s: float = 60.0  # an account missing from an older list is looked up once more

    maintenance_default_s: float = 30.0
    maintenance_cap_s: float = 900.0
    app_blocked_s: float = 300.0
    app_refused_s: float = 60.0
    connection_limit_s: float = 95.0
    certificate_retry_s: float = 30.0

    def url(self, environment: Environment) -> str:
        """Where the accounts of an environment are served."""
        return self.live_url if environment is Environment.LIVE else self.demo_url

    def channels_for(self, accounts: int) -> int:
        """Channels that this many accounts ask for (DESIGN §5)."""
        if self.accounts_per_channel is None:
            return self.channels
        return max(self.channels, math.ceil(accounts / self.accounts_per_channel))
