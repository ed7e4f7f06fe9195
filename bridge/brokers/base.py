"""What the rest of the bridge knows of a broker: the `Broker` protocol, its value types and its fault classes.

An adapter owns its wire, its channels and its request budget. It turns what the broker sends into events on account
mirrors and every refusal into a `BrokerFault`, whose kind says what the session must do. It knows nothing of sessions,
records or stores: it speaks to a `SessionListener`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from core.account import AccountMirror
from core.errors import BridgeError
from core.secret import Secret


class Environment(StrEnum):
    """Where an account lives. Adapters map their own words (paper, practice) onto these two."""

    DEMO = "demo"
    LIVE = "live"


class FaultKind(StrEnum):
    """Error classes (reference/faults.md §4.1): the kind decides what a session does next."""

    TRANSIENT = "transient"  # back off, then try again
    THROTTLE = "throttle"  # wait what the broker says, then try again
    MAINTENANCE = "maintenance"  # wait for the announced end (capped), one probe
    ACCOUNT_AUTH_LOST = "account_auth_lost"  # authorise the account again, now
    CLIENT_AUTH_LOST = "client_auth_lost"  # the application must authorise first; the channel does it
    TOKEN = "token"  # refresh the access token, then authorise again  # noqa: S105 (a word, not a secret)
    FATAL_USER = "fatal_user"  # only the user can help: action_required
    FATAL_APP = "fatal_app"  # only the operator can help: slow retries, loud


class ReasonCode(StrEnum):
    """The closed list of stable codes for every non-live session (DESIGN §5, §6)."""

    STARTING = "starting"  # accepted, waits for its turn
    CONNECTING = "connecting"
    AUTHORIZING = "authorizing"
    SYNCING = "syncing"
    BROKER_UNREACHABLE = "broker_unreachable"  # dial refused, timed out, TLS or DNS failed
    CONNECTION_LOST = "connection_lost"  # an established channel ended
    BROKER_SILENT = "broker_silent"  # no inbound byte although asked
    BROKER_ERROR = "broker_error"  # a temporary or unknown refusal
    BROKER_MAINTENANCE = "broker_maintenance"
    RATE_LIMITED = "rate_limited"
    CONNECTION_LIMIT = "connection_limit"  # the broker allows no more connections, or the slot is still held
    ACCOUNT_SESSION_ENDED = "account_session_ended"  # the broker ended this account's authorisation
    TOKEN_REFRESHING = "token_refreshing"  # noqa: S105 (a code, not a secret)
    TOKEN_EXPIRED = "token_expired"  # cannot be refreshed here  # noqa: S105 (a code, not a secret)
    TOKEN_REVOKED = "token_revoked"  # the user must connect the broker again  # noqa: S105 (a code, not a secret)
    NO_CREDENTIALS = "no_credentials"
    CREDENTIALS_INVALID = "credentials_invalid"  # what is stored cannot be used as it is
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"  # where they are kept does not answer now
    ACCOUNT_NOT_COVERED = "account_not_covered"  # the token does not list this account
    WRONG_ENVIRONMENT = "wrong_environment"  # a live account asked for as demo, or the reverse
    CHOOSE_ACCOUNT = "choose_account"  # several accounts, none named
    NO_ACCOUNTS = "no_accounts"  # the token covers no account in this environment
    ACCOUNT_DISABLED = "account_disabled"
    APPLICATION_REFUSED = "application_refused"  # client id or secret refused, or the application is blocked
    SNAPSHOT_REFUSED = "snapshot_refused"  # the snapshot could not be read or did not hold together
    INTERNAL_ERROR = "internal_error"  # our own fault; counted and retried
    DRAINING = "draining"
    STOPPED = "stopped"
    IDLE = "idle"  # ended because nobody started or read it for long
    FENCED = "fenced"  # served elsewhere under a higher fence


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a session is not live: a stable code and one sentence for the user. Same object everywhere."""

    code: ReasonCode
    message: str


class BrokerFault(BridgeError):
    """A broker refused or a channel failed. The kind decides, the reason explains.

    `retry_after_s`: the earliest sensible next attempt, in seconds from now, when known. `broker_code`: the broker's
    own code, for logs and /explain. `shared`: a channel's fault, not an account's; the adapter itself paces the next
    attempt, so the session need not back off on its own. `in_doubt`: no answer came to a request that the broker may
    have carried out, so a token or code that was sent with it may be spent.
    """

    def __init__(
        self,
        kind: FaultKind,
        reason: Reason,
        *,
        retry_after_s: float | None = None,
        broker_code: str | None = None,
        shared: bool = False,
        in_doubt: bool = False,
    ) -> None:
        super().__init__(reason.message)
        self.kind = kind
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.broker_code = broker_code
        self.shared = shared
        self.in_doubt = in_doubt


class ChooseAccount(BrokerFault):
    """The token covers several accounts and none was named."""

    def __init__(self, reason: Reason, accounts: Sequence[BrokerAccount]) -> None:
        super().__init__(FaultKind.FATAL_USER, reason)
        self.accounts = tuple(accounts)


class ConsentScope(StrEnum):
    """What a user allows: to look, or to trade as well."""

    ACCOUNTS = "accounts"
    TRADING = "trading"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What callers may rely on: environments served, whether access tokens can be refreshed, whether a user can
    consent in a browser."""

    environments: tuple[Environment, ...] = (Environment.DEMO, Environment.LIVE)
    refresh: bool = False
    consent: bool = False


@dataclass(frozen=True, slots=True)
class BrokerAccount:
    """One account that a grant covers."""

    account_id: str
    environment: Environment
    login: str | None = None
    broker_title: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """One grant's secrets as stored: what is needed to act for one user at one broker.

    `grant_id` names the consent (stable over refreshes); `secrets` by the broker's own names, e.g. "accessToken".
    `account_id` is the account the user chose when connecting, `None` when not said. `expires_at_ms`: when the access
    token ends (Unix ms), None when unknown. `accounts`: what the broker said the grant covers, () when not asked yet;
    an adapter need not ask again for an account among them.
    """

    grant_id: str
    environment: Environment
    secrets: Mapping[str, Secret] = field(repr=False)
    account_id: str | None = None
    expires_at_ms: int | None = None
    accounts: tuple[BrokerAccount, ...] = ()


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a broker issued: the secrets, complete, by its own names; `expires_in_s` from now, None when not said."""

    secrets: Mapping[str, Secret] = field(repr=False)
    expires_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """For /health: number of open channels, worst state, and when anything last arrived (Unix ms)."""

    channels: int
    state: str  # "up", "connecting", "down", "maintenance", "idle"
    last_inbound_at: int | None


class Stage(StrEnum):
    """How far a login has come; the session shows it."""

    CONNECTING = "connecting"
    AUTHORIZING = "authorizing"
    SYNCING = "syncing"


class SessionListener(Protocol):
    """What an adapter tells about one account session. Called synchronously; must not block."""

    def stage(self, stage: Stage) -> None:
        """A login reached this stage."""

    def changed(self, *, urgent: bool) -> None:
        """The mirror's content changed since it was last read (once until it is read again; urgent ones each time)."""

    def lost(self, fault: BrokerFault) -> None:
        """A live account session ended (or must end); the adapter has dropped it and waits for a new `login`."""


class AccountSession(Protocol):
    """One account's login at a broker, for one listener. Sessions on the same account share one mirror."""

    @property
    def mirror(self) -> AccountMirror | None:
        """The account as last known; None before the first successful login. Kept over reconnects."""

    @property
    def account_id(self) -> str | None:
        """The account, once it is known."""

    @property
    def contact_monotonic(self) -> float | None:
        """When the broker was last heard while this account was authorised (monotonic s); None when it is not."""

    async def login(self, credential: Credential, *, at_risk: bool) -> None:
        """Make this account live: channel, authorisation, snapshot, quotes for what is held.

        Reports stages; returns when the mirror is true and fed. Raises BrokerFault. Cancelling it leaves nothing
        half-open. May be called again after `lost` or a fault.
        """

    async def reconcile(self) -> int:
        """Read the broker's full snapshot and repair the mirror. Returns the number of differences (lost events).

        Raises BrokerFault; a fault that ends the session is also told by `lost`.
        """

    async def logout(self) -> None:
        """End this session; the broker's logout is sent when the last session on the account ends. Never raises."""


class Broker(Protocol):
    """One broker. `name` is the word used in keys, records and requests."""

    name: str
    capabilities: Capabilities

    def read_credential(self, grant_id: str, entry: Mapping[str, object]) -> Credential:
        """Check one stored or entered credential and return it. Raises InvalidInput with the field's name."""

    def settings_entry(self, value: Mapping[str, object]) -> Mapping[str, object]:
        """The entry for `read_credential` in a settings row of an app (DESIGN §10). Raises InvalidInput with the field.

        What `read_credential` checks is not checked here; a live account is never assumed.
        """

    def login_slots(self, environment: Environment) -> int:
        """How many logins may run at once there; more would only queue inside the adapter and lose their order."""

    def reconcile_interval_s(self, environment: Environment) -> float:
        """The period of the periodic reconcile that the request budget allows (DESIGN §5), without jitter."""

    def session(self, environment: Environment, account_id: str | None, listener: SessionListener) -> AccountSession:
        """Create an account session; does no I/O. `account_id` None: the only account the token covers, at login."""

    async def accounts(self, credential: Credential) -> list[BrokerAccount]:
        """The accounts this credential covers, all environments. Raises BrokerFault."""

    def known_accounts(self, credential: Credential) -> tuple[BrokerAccount, ...]:
        """What the broker was heard to say that these very secrets cover; () when this process never asked. No I/O."""

    async def refresh(self, credential: Credential) -> IssuedTokens:
        """Exchange the refresh token. Raises BrokerFault.

        The old refresh token is spent by this: only `bridge.credentials` calls it, one at a time per grant, and
        commits the result before use. FATAL_USER means the refusal is final; a fault that is `in_doubt` may have spent
        the token, any other has not.
        """

    def consent_url(self, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
        """Where the user's browser goes to consent. Only with `capabilities.consent`."""

    async def exchange_code(self, code: Secret, *, redirect_uri: str) -> IssuedTokens:
        """Exchange what the browser brought back. Raises BrokerFault: FATAL_USER when the code is refused for good."""

    def health(self) -> ChannelHealth:
        """Present state of the channels."""

    def metrics(self) -> Mapping[str, float]:
        """Plain counters and gauges by name, for telemetry; never falling but for the gauges.

        Every adapter counts `requests.<outcome>`, `dials`, `reconnects.<cause>`, `frames`, `bytes`, `events.<type>`,
        `fills` (executions noted, each once), `fills_recovered` (of those, found afterwards), `lost_events`,
        `quarantined`, `reconciles`; the request round trip as `roundtrip.le_<s>`, `roundtrip.sum` and
        `roundtrip.count`; gauges `accounts`, `channels`.
        """

    async def close(self) -> None:
        """Close all channels. Sessions are not told."""
