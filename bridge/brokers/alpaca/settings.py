"""What the Alpaca adapter can be told: addresses, keys of the house, request budget and every timer.

The timers are settings so that tests can run them faster; the defaults are the production values of DESIGN §5 and
reference/alpaca.md. Units are in the names: `_s` seconds, `_ms` milliseconds, rates per minute.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.base import Environment
from core.secret import Secret


@dataclass(frozen=True, slots=True)
class AlpacaSettings:
    """Configuration of the adapter. Stream addresses left None are derived from the REST ones.

    `data_feed`: which stock feed prices come from, "off" for polled prices only. `data_key_id` and `data_secret`: the
    house's own market data key, one socket for all users; without it each user's own key opens one. `client_id` and
    `client_secret`: the OAuth application, needed for consent only.
    """

    live_url: str = "https://api.alpaca.markets"
    paper_url: str = "https://paper-api.alpaca.markets"
    live_stream_url: str | None = None
    paper_stream_url: str | None = None
    data_url: str = "wss://stream.data.alpaca.markets"
    data_feed: str = "iex"
    data_key_id: Secret | None = None
    data_secret: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    auth_url: str = "https://app.alpaca.markets/oauth/authorize"
    token_url: str = "https://api.alpaca.markets/oauth/token"  # noqa: S105 (an address)
    tls_ca_file: str | None = None  # extra trusted certificate, for simulators and private gateways
    transport: str = "websockets"  # a name of brokers/transports

    requests_per_minute: int = 180  # of 200 that the broker allows per account
    requests_reserved: int = 15  # orders may use so many beyond
    window_s: float = 61.0  # of the budget; a second over a minute, since what is sent evenly may arrive in a lump
    aging_s: float = 10.0  # after waiting so long a request counts as one class higher
    max_queue: int = 200  # requests that wait for the budget of one account
    queue_timeout_s: float = 30.0  # how long a request may wait for the budget
    request_timeout_s: float = 10.0  # of one request, from the moment it leaves
    token_timeout_s: float = 10.0  # of a whole request to the token endpoint
    throttle_s: float = 5.0  # after a 429 that does not say when to come back
    throttle_cap_s: float = 120.0
    rest_connections: int = 50  # to one host; more requests wait for one
    keepalive_s: float = 30.0  # how long an unused one is kept

    connect_timeout_s: float = 10.0
    close_timeout_s: float = 1.0
    certificate_retry_s: float = 30.0
    dials_per_second: int = 5
    handshakes_in_flight: int = 10
    backoff_first_s: float = 1.0
    backoff_cap_s: float = 60.0
    stable_s: float = 60.0
    slot_wait_s: float = 95.0  # a half-dead stream holds its account's slot about 90 s
    login_slots: int = 20  # logins at once; budgets are per account, so hosts and our own core set the limit

    ping_s: float = 5.0
    pong_timeout_s: float = 5.0
    auth_timeout_s: float = 10.0
    data_retry_s: float = 30.0  # after trouble with a price stream
    data_linger_s: float = 3.0  # how long one stays open that nobody needs; the user's own programs may want its slot

    poll_s: float = 10.0  # of positions, when a held one has no price from a stream
    slow_poll_s: float = 30.0  # and when all have
    reading_delay_s: float = 1.0  # between a fill and the reading that follows it
    reading_gap_s: float = 2.0  # the least time between two readings under steady fills
    reading_tries: int = 6  # after so many the newest reading is taken as it is
    lag_first_s: float = 0.5  # between two tries of a reading, doubling
    lag_cap_s: float = 2.0
    activity_lag_s: float = 60.0  # how long REST may take to show what the stream said; then nobody waits for it
    order_lag_s: float = 5.0  # how long REST may take to show what the stream said of orders, quantities and cash
    baseline_ms: int = 60_000  # executions older than this when an account is first read are in its first reading
    overlap_s: float = 300.0  # how far before the last reading executions are looked for again
    activity_pages: int = 20  # of 100 executions, at most
    confirm_delay_s: float = 0.5  # between a snapshot that empties an account and the one that must confirm it
    repair_delay_s: float = 1.0  # between a message that could not be used and the reading it asks for
    reconcile_s: float = 60.0

    def rest_url(self, environment: Environment) -> str:
        """Base of the trading REST API, without a slash at its end."""
        url = self.live_url if environment is Environment.LIVE else self.paper_url
        return url.rstrip("/")

    def stream_url(self, environment: Environment) -> str:
        """The trading stream: as configured, else beside the REST API."""
        said = self.live_stream_url if environment is Environment.LIVE else self.paper_stream_url
        if said is not None:
            return said
        rest = self.rest_url(environment)
        return f"ws{rest.removeprefix('http')}/stream"

    def stock_data_url(self) -> str | None:
        """The stream of stock prices; None when it is off."""
        return None if self.data_feed == "off" else f"{self.data_url.rstrip('/')}/v2/{self.data_feed}"

    def crypto_data_url(self) -> str | None:
        """The stream of crypto prices; None when prices are polled only."""
        return None if self.data_feed == "off" else f"{self.data_url.rstrip('/')}/v1beta3/crypto/us"

    @property
    def consents(self) -> bool:
        """Whether users can connect by consent."""
        return self.client_id is not None and self.client_secret is not None
