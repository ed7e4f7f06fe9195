"""What requests may hold and what answers hold: the same models validate and make /openapi.json.

Names are camelCase on the wire. Unknown fields are refused. Must not decide anything: a model checks shape only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bridge.api.problems import Problem

Status = Literal[
    "starting", "connecting", "syncing", "live", "stale", "maintenance", "action_required", "stopped", "fenced"
]
EnvironmentName = Literal["demo", "live"]
UserId = Annotated[str, Field(min_length=1, max_length=2048, description="The app's own id of the user.")]
BrokerName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9_-]+$", description="Broker.")]
AccountId = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$", description="The broker's id of the account.")
]
UserKeyText = Annotated[
    str,
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    Field(pattern=r"^[0-9a-f]{12,64}$", description="A user key, or at least 12 hex digits of it."),
]
Millis = Annotated[int, Field(description="Unix milliseconds.")]
LONGEST_WAIT_S = 10
_MESSAGES = {  # where the library speaks of its own types
    "model_type": "must be a JSON object",
    "extra_forbidden": "is not known here",
    "missing": "is required",
    "string_type": "must be a string",
}
LARGEST_PAGE = 1000


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, strict=True, frozen=True)


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, from_attributes=True, populate_by_name=True)


class StartRequest(_Request):
    """Start a session, or find the one that runs."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    account_id: AccountId | None = None
    environment: EnvironmentName | None = None


class StartWebsocketRequest(StartRequest):
    """As start-session, for older callers: the broker may be left out."""

    broker: BrokerName | None = None  # type: ignore[assignment]


class StopRequest(_Request):
    """Stop a user's session at a broker; without an account, all of them."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    account_id: AccountId | None = None


class StopWebsocketRequest(StopRequest):
    """As stop-session, for older callers: the broker may be left out."""

    broker: BrokerName | None = None  # type: ignore[assignment]


class NoQuery(_Query):
    """No parameters."""


class StartQuery(_Query):
    """How long to wait for the session to become live or need the user."""

    wait: float = Field(0, ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False, description="Seconds.")


class ListQuery(_Query):
    """Which sessions to list. `after` is the `next` of the page before."""

    status: Status | None = None
    broker: BrokerName | None = None
    after: str | None = Field(None, min_length=1, max_length=512)
    limit: int = Field(100, ge=1, le=LARGEST_PAGE)


class RecordQuery(_Query):
    """Whose record, at which broker, which account."""

    broker: BrokerName | None = None
    account_id: AccountId | None = None
    user_key: UserKeyText | None = None


class BrokerQuery(_Query):
    """Which broker."""

    broker: BrokerName


class _BrowserQuery(BaseModel):
    """What a browser brings along; a broker may add to it, so nothing is refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class BeginQuery(_BrowserQuery):
    """The state in the address that `start` answered."""

    state: str = ""


class CallbackQuery(_BrowserQuery):
    """What the broker sends back: a code, or why there is none."""

    state: str = ""
    code: str | None = None
    error: str | None = None


class ConnectRequest(_Request):
    """Begin to connect a broker."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    return_to: str = Field(min_length=1, max_length=2048, description="Where the browser goes afterwards.")
    scope: Literal["accounts", "trading"] = Field("accounts", description="To look, or to trade as well.")


class CompleteRequest(_Request):
    """Finish connecting, as the same user."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    ticket: str = Field(min_length=1, max_length=128, description="From the address that the browser came back to.")


class CredentialsRequest(_Request):
    """Credentials of one user at one broker, in the broker's own names."""

    user_id: UserId | None = Field(None, description="Required with an API key.")
    broker: BrokerName
    credentials: dict[str, Any] = Field(max_length=16, description="Such as accessToken and environment.")


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
    attempts: int
    reconnects: int
    events: int
    last_event_at: Millis | None
    last_flush_at: Millis | None
    uptime_percent: float
    owner: str
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


def parse(model: type[BaseModel], data: Any, *, where: str) -> Any:
    """Validate `data`. Raises Problem 422 with the path of each refused field; `where` names the whole."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        errors = [(_path(each["loc"]) or where, _MESSAGES.get(each["type"], each["msg"])) for each in found[:20]]
        detail = "; ".join(f"{field}: {message}" for field, message in errors[:3])
        raise Problem("invalid-input", detail, errors=errors) from None


def _path(loc: tuple[int | str, ...]) -> str:
    """A dotted path that is safe to print: names come from the caller."""
    return ".".join(str(part) for part in loc)[:200].encode("utf-8", "replace").decode()


def render(model: type[_Answer], source: object) -> dict[str, Any]:
    """An answer from an object with the same attributes (or a mapping), as JSON-ready data."""
    return model.model_validate(source).model_dump(by_alias=True)
