"""What answers hold: the models that render them and make /openapi.json.

Names are camelCase on the wire. Must not decide anything: a model is the shape of an answer, made of an object of a
room or of a mapping.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Status = Literal[
    "starting", "connecting", "syncing", "live", "stale", "maintenance", "action_required", "stopped", "fenced"
]
EnvironmentName = Literal["demo", "live"]
Millis = Annotated[int, Field(description="Unix milliseconds.")]


class _Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, from_attributes=True, populate_by_name=True, hide_input_in_errors=True
    )


class ReasonAnswer(_Answer):
    """Why a session is not live."""

    code: str = Field(description="Stable code.")
    message: str = Field(description="One sentence for the user.")


class StartAnswer(_Answer):
    """The session as accepted; `status` tells how far it is."""

    user_key: str
    broker: str
    environment: str
    account_id: str | None
    status: Status
    cache_key: str | None


class StopAnswer(StartAnswer):
    """The session that was stopped (the first, when several were), and all of them."""

    sessions: list[StartAnswer]


class SessionAnswer(_Answer):
    """One session."""

    user_key: str
    broker: str
    environment: str
    account_id: str | None
    status: Status
    state: str
    reason: ReasonAnswer | None
    since: Millis
    next_attempt_at: Millis | None
    attempts: int | None = Field(description="null, like the next two and uptimePercent, where another process serves.")
    reconnects: int | None
    events: int | None
    last_event_at: Millis | None
    last_flush_at: Millis | None
    uptime_percent: float | None
    owner: str | None = Field(description="The process that serves it (see /api/fleet); null: none does.")
    fence: int | None
    version: int
    cache_key: str | None


class SessionsAnswer(_Answer):
    """A page of sessions; `next` goes into `after` for the following page."""

    sessions: list[SessionAnswer]
    total: int
    next: str | None


class UserSessionsAnswer(_Answer):
    """The sessions of one user."""

    user_key: str
    sessions: list[SessionAnswer]


class EvidenceAnswer(_Answer):
    """One thing that went wrong, as it was seen."""

    at: Millis
    state: str
    kind: str
    code: str
    message: str
    broker_code: str | None
    cause: str | None


class FillAnswer(_Answer):
    """One execution of an order."""

    at: Millis
    execution_id: str
    order_id: str
    symbol: str | None
    side: Literal["buy", "sell"]
    units: float | int
    price: float | int
    recovered: bool = Field(description="No live message told of it; it was found after a cut.")


class ExplanationAnswer(_Answer):
    """Why a session is as it is, what happens next, and what a person can do."""

    session: SessionAnswer
    chain: list[EvidenceAnswer]
    awaits: str
    what_next: str
    unblock: str | None
    next_attempt_at: Millis | None
    queue_position: int | None
    queue_length: int
    fills: list[FillAnswer] = Field(description="The last executions known, newest first.")


class UserExplanationsAnswer(_Answer):
    """An explanation for each session of one user."""

    user_key: str
    explanations: list[ExplanationAnswer]


class PositionAnswer(_Answer):
    """An open position. Units are positive; the side says the direction."""

    id: str
    symbol: str | None
    side: Literal["buy", "sell"]
    units: float
    lots: float | None
    price_digits: int | None
    entry_price: float | None
    current_price: float | None
    stop_loss: float | None
    take_profit: float | None
    swap: float | None
    commission: float | None
    unrealized_pnl: float | None
    used_margin: float | None
    opened_at: Millis | None


class OrderAnswer(_Answer):
    """A working order."""

    id: str
    symbol: str | None
    side: Literal["buy", "sell"]
    type: str
    units: float
    filled_units: float
    limit_price: float | None
    stop_price: float | None
    stop_loss: float | None
    take_profit: float | None
    status: str
    created_at: Millis | None


class _Envelope(_Answer):
    schema_: int = Field(alias="schema")
    broker: str
    environment: str
    account_id: str | None
    status: Status
    reason: ReasonAnswer | None
    currency: str | None
    money_digits: int | None
    positions: list[PositionAnswer] | None = Field(description="null until they were read once.")
    orders: list[OrderAnswer] | None = Field(description="null until they were read once.")
    fence: int
    version: int
    as_of: Millis | None
    confirmed_at: Millis | None
    stale_after: Millis | None
    last_update: Millis | None
    cache: bool = Field(alias="_cache")
    cache_timestamp: Millis = Field(alias="_cacheTimestamp")
    fresh: bool = Field(description="status is live and staleAfter has not come.")
    age_ms: int | None = Field(description="Since the broker was last heard.")
    server_time: Millis


class PositionsAnswer(_Envelope):
    """Positions and orders of one account."""


class AccountAnswer(_Envelope):
    """The whole record of one account. Absent data is null, never 0."""

    login: str | None
    broker_title: str | None
    can_trade: bool | None
    leverage: float | None
    balance: float | None
    equity: float | None
    unrealized_pnl: float | None
    used_margin: float | None
    free_margin: float | None
    margin_level: float | None


class BrokerHealthAnswer(_Answer):
    """Channels to one broker."""

    channels: int
    state: str
    last_inbound_at: Millis | None


class StoreHealthAnswer(_Answer):
    """One store."""

    role: str
    state: str
    last_flush_at: Millis | None
    last_flush_ms: float | None
    dirty: int
    failures: int


class ProcessAnswer(_Answer):
    """The process."""

    rss_bytes: int
    cpu_percent: float
    loop_lag_ms: float


class OwnershipAnswer(_Answer):
    """How this process stands among those that share its database."""

    owner: str = Field(description="Its name; another one after its lease was lost.")
    state: Literal["joining", "active", "draining", "suspended", "ending"]
    lease_age_ms: int | None = Field(description="Since the last renewal.")
    owned: int
    processes: int


class HealthAnswer(_Answer):
    """How the bridge is doing; no user data."""

    status: Literal["ok", "degraded"]
    version: str
    uptime_seconds: float
    auth: Literal["open", "keys", "tokens", "keys+tokens"]
    sessions: dict[str, int]
    brokers: dict[str, BrokerHealthAnswer]
    stores: dict[str, StoreHealthAnswer]
    process: ProcessAnswer
    ownership: OwnershipAnswer | None = Field(description="null without a database: there is one process only.")


class FleetProcessAnswer(_Answer):
    """One process with a lease."""

    owner: str
    version: str
    capacity: int
    share: int = Field(description="How many sessions it should serve, by capacity.")
    load: int = Field(description="How many it does serve.")
    draining: bool
    started_at: Millis
    renewed_at: Millis
    lease_left_ms: int
    sessions: dict[str, int] = Field(description="By status, as the process last said.")
    here: bool = Field(description="The process that answers.")


class FleetAnswer(_Answer):
    """All processes on the database, oldest first."""

    processes: list[FleetProcessAnswer]
    total: int = Field(description="Sessions that need a process.")
    unowned: int = Field(description="Those that have none at the moment.")


class DrainAnswer(_Answer):
    """The wish as stored."""

    owner: str
    draining: bool


class MovingAnswer(_Answer):
    """A session that shall be served elsewhere."""

    user_key: str
    broker: str
    account_id: str | None
    owner: str | None
    move_to: str | None = Field(description="null: it is there already, and stays.")


class MovesAnswer(_Answer):
    """The sessions meant."""

    sessions: list[MovingAnswer]


class ProbeAnswer(_Answer):
    """A probe that passed."""

    status: Literal["ok"]


class FieldErrorAnswer(_Answer):
    """One refused field."""

    field: str
    message: str


class AccountChoiceAnswer(_Answer):
    """One account to choose from."""

    account_id: str
    environment: str
    login: str | None
    broker_title: str | None


class ConnectAnswer(_Answer):
    """Where the user's browser goes now."""

    url: str = Field(description="Open it in the user's browser, as a page of its own, within 10 minutes.")


class CoveredAnswer(_Answer):
    """Accounts as the broker said."""

    accounts: list[AccountChoiceAnswer]
    as_of: Millis | None = Field(description="When the broker said so; null when it could not be asked yet.")
    fresh: bool = Field(description="The broker said so just now.")


class AccountsAnswer(CoveredAnswer):
    """The accounts that a user's credentials cover at a broker."""

    broker: str


class ConnectedAnswer(CoveredAnswer):
    """A broker is connected."""

    user_key: str
    broker: str
    scope: Literal["accounts", "trading"]


class CredentialsAnswer(_Answer):
    """Credentials as stored, without what is secret."""

    user_key: str
    broker: str
    environment: EnvironmentName
    account_id: str | None


class ProblemAnswer(_Answer):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldErrorAnswer] | None = None
    accounts: list[AccountChoiceAnswer] | None = None


def render(model: type[_Answer], source: object) -> dict[str, Any]:
    """An answer from an object with the same attributes (or a mapping), as JSON-ready data."""
    return model.model_validate(source).model_dump(by_alias=True)
