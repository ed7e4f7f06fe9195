"""Which sessions are wanted: the protocol behind start and stop, its values, and the one that lives in memory.

A start or a stop is stored here before it is accepted and before anything acts on it; whoever reads this after a
restart knows what to bring back. Must never know how a session is doing. Invariants: one row per (user, broker,
account), at most one per (user, broker) whose account is not known; `command` of a row only grows; a default account
never moves (DESIGN §7). Every call may be repeated when its outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from bridge.brokers.base import Environment, ReasonCode
from bridge.sessions.defaults import DefaultAccount
from core.errors import Conflict

Identity: TypeAlias = tuple[str, str, str]
"""Canonical user key, broker, account id ("" while that is not known)."""


class AlreadyWanted(Conflict):
    """The account that a login found has a wanted row of its own, or its own row is gone."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One row. `ended`: why it is not wanted any more (STOPPED or IDLE), None while it is. Times: Unix ms.

    `command`: the number of the last accepted start or stop. `at_risk`: positions or orders when last seen.
    `owes_record`: it ended, and its last record may not have been written. `default_account`: the user's default at
    this broker. `owner`: the process that serves it, if that still has its lease; `fence`: grows with every change of
    owner; `move_to`: the process that an operator wants to serve it.
    """

    user_id: str = field(repr=False)
    user_key: str
    broker: str
    account_id: str | None
    environment: Environment
    wanted: bool
    command: int
    at_risk: bool
    ended: ReasonCode | None
    owes_record: bool
    started_at_ms: int
    stopped_at_ms: int | None
    last_used_at_ms: int
    default_account: str | None
    owner: str | None = None
    fence: int = 0
    move_to: str | None = None

    @property
    def identity(self) -> Identity:
        """What names the row."""
        return (self.user_key, self.broker, self.account_id or "")


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of a user at a broker."""

    default: DefaultAccount | None = None
    sessions: tuple[StoredSession, ...] = ()

    def of_account(self, account_id: str) -> StoredSession | None:
        """The row of this account."""
        return next((row for row in self.sessions if row.account_id == account_id), None)


@dataclass(frozen=True, slots=True)
class Start:
    """What a start asks for. `account_id` None: the login will tell."""

    user_id: str = field(repr=False)
    user_key: str
    broker: str
    account_id: str | None
    environment: Environment


@dataclass(frozen=True, slots=True)
class Started:
    """A start as stored. `default`: the one that holds now. `replaced`: it took the place of the row whose account was
    not known."""

    row: StoredSession
    default: DefaultAccount | None
    replaced: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something learned about a row, written in batches; None: nothing new.

    `used_ago_s`: seconds since it was last used. `recorded`: the record that its end with this command asks for has
    been written.
    """

    identity: Identity
    at_risk: bool | None = None
    used_ago_s: float | None = None
    recorded: int | None = None


class DesiredSessions(Protocol):
    """Where it is kept. Every method raises Unavailable when it cannot be read or written now; a write may then have
    been stored all the same. `shared`: other processes may write there too.

    `owner`, where a method takes it: the process that asks. A command claims for it what nobody serves, under a higher
    fence; a reading is of its own rows only. None: nothing is claimed, all rows are read. Whoever serves a row that was
    commanded here is told.
    """

    shared: bool

    async def known(self, user_key: str, broker: str) -> Known:
        """The default account and every row of a user at a broker."""

    async def start(self, start: Start, *, owner: str | None = None) -> Started:
        """Store that a session is wanted. A named account becomes the default unless there is one.

        A named account that was not wanted takes the place of the row whose account is not known, if there is one.
        """

    async def stop(
        self,
        user_key: str,
        broker: str,
        account_id: str | None,
        *,
        reason: ReasonCode = ReasonCode.STOPPED,
        idle_for_s: float | None = None,
        owner: str | None = None,
    ) -> list[StoredSession]:
        """Store that the session of this account ("": the one not known), or with None every session of the user there,
        is not wanted; returns all rows meant, also those that had ended before.

        `idle_for_s`: leave alone what was used within so many seconds, by the clock of the store.
        """

    async def resolve(self, user_key: str, broker: str, found: DefaultAccount) -> DefaultAccount:
        """The row whose account was not known is this one; returns the default that holds. Raises AlreadyWanted."""

    async def retry(self, user_key: str, broker: str) -> list[StoredSession]:
        """Count as started once more what is wanted of a user at a broker, so that whoever serves it tries again if it
        waits for its user; returns those rows."""

    async def wanted(
        self, *, at_risk: bool, after: Identity | None, limit: int, owner: str | None = None
    ) -> list[StoredSession]:
        """A page of wanted rows in the order of their identity."""

    async def owing(self, *, after: Identity | None, limit: int, owner: str | None = None) -> list[StoredSession]:
        """A page of rows that ended and whose last record may not have been written."""

    async def changed(self, owner: str, within_s: float) -> list[StoredSession]:
        """Rows of this process that had a command, or came to it, within so many seconds, by the clock of the store."""

    async def page(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        """A page of all rows, wanted or not, and how many there are in all."""

    async def ended(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        """A page of rows that are not wanted, and how many there are in all."""

    async def of_user(self, key: str) -> list[StoredSession]:
        """All rows of the user with this key (of either mode), or with the only one that begins so. Raises Conflict."""

    async def idle(self, idle_for_s: float, limit: int, *, owner: str | None = None) -> list[StoredSession]:
        """Wanted rows that were not used for so many seconds, by the clock of the store."""

    async def note(self, notes: Sequence[Note]) -> None:
        """Write down what was learned; rows that are gone are left out. What has ended and is recorded has no owner."""

    async def used(self, uses: Sequence[tuple[str, str, float]]) -> None:
        """Users (canonical key) whose record at a broker was read, and how many seconds ago."""

    async def erase(self, user_key: str) -> None:
        """Delete every row and default of a user."""
