"""What the API needs of the rest of the bridge, as protocols; `app.py` hands in the objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.brokers.base import ChannelHealth, ConsentScope, Environment
from bridge.cache.store import Stored
from bridge.credentials.views import Begun, Connected, CoveredAccounts, Entered, Returned
from bridge.runtime.clock import Clock
from bridge.sessions.views import Explanation, FleetView, Moving, OwnershipView, SessionPage, SessionView


class Sessions(Protocol):
    """The session service. Raises the errors of `core.errors`."""

    async def start(
        self,
        *,
        user_id: str,
        broker: str,
        account_id: str | None,
        environment: Environment | None,
        actor: str = "bridge",
    ) -> SessionView: ...

    async def stop(
        self, *, user_id: str, broker: str, account_id: str | None = None, actor: str = "bridge"
    ) -> list[SessionView]: ...

    async def wait(self, view: SessionView, timeout_s: float) -> SessionView: ...

    async def sessions(
        self, *, status: str | None, broker: str | None, after: str | None, limit: int
    ) -> SessionPage: ...

    async def of_user(self, user_key_prefix: str) -> list[SessionView]: ...

    async def explain(self, user_key_prefix: str) -> list[Explanation]: ...

    async def user_key(self, key: str) -> str: ...

    def used(self, user_key: str, broker: str) -> None: ...

    def credentials_changed(self, user_key: str, broker: str) -> None: ...

    def cache_key(self, user_id: str, broker: str, account_id: str | None) -> str: ...

    def counts(self) -> Mapping[str, int]: ...

    def brokers(self) -> Mapping[str, ChannelHealth]: ...


class Fleet(Protocol):
    """All processes on the database, as operators see them. Raises NotFound, Conflict, Unavailable."""

    def standing(self) -> OwnershipView: ...

    async def view(self) -> FleetView: ...

    async def drain(self, owner: str, *, draining: bool, actor: str) -> str: ...

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None, actor: str
    ) -> Sequence[Moving]: ...


class Records(Protocol):
    """Reads records. Raises Unavailable when no store answers."""

    async def get(self, key: str) -> Stored | None: ...


class StoreState(Protocol):
    """One store for /health; times Unix ms."""

    @property
    def role(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def last_flush_at(self) -> int | None: ...
    @property
    def last_flush_ms(self) -> float | None: ...
    @property
    def dirty(self) -> int: ...
    @property
    def failures(self) -> int: ...


class Vitals(Protocol):
    """How the process itself is doing."""

    version: str

    def uptime_s(self) -> float: ...

    def stores(self) -> Mapping[str, StoreState]: ...

    def rss_bytes(self) -> int: ...

    def cpu_percent(self) -> float: ...

    def loop_lag_ms(self) -> float: ...

    def not_live(self) -> str | None:
        """One sentence when the process makes no progress any more, else None."""

    def not_ready(self) -> str | None:
        """One sentence when it cannot serve (primary store unusable), else None."""


class Connecting(Protocol):
    """Connecting a broker by consent. Raises ConnectRefused and the errors of `core.errors`."""

    async def start(self, *, user_id: str, broker: str, return_to: str, scope: ConsentScope, actor: str) -> str: ...

    async def begin(self, *, broker: str, state: str) -> Begun: ...

    async def callback(
        self, *, broker: str, state: str, cookies: Mapping[str, str], code: str | None, error: str | None
    ) -> Returned: ...

    async def complete(self, *, user_id: str, broker: str, ticket: str, actor: str) -> Connected: ...


class StoredCredentials(Protocol):
    """Credentials as they are kept. Raises ConnectRefused and the errors of `core.errors`."""

    async def accounts(self, *, user_id: str, broker: str) -> CoveredAccounts | None: ...

    async def enter(self, *, user_id: str, broker: str, entry: Mapping[str, Any], actor: str) -> Entered: ...

    async def remove(self, *, user_id: str, broker: str, actor: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the handlers work with.

    `is_fresh(status, stale_after, now_ms)`: the freshness rule of the record. `metrics()`: the Prometheus text.
    `default_broker`: what the older paths mean when they name no broker. `connecting`, `credentials`, `fleet`: None
    where the operator has not configured them.
    """

    sessions: Sessions
    records: Records
    vitals: Vitals
    metrics: Callable[[], bytes]
    is_fresh: Callable[[object, object, int], bool]
    clock: Clock
    default_broker: str
    connecting: Connecting | None = None
    credentials: StoredCredentials | None = None
    fleet: Fleet | None = None
