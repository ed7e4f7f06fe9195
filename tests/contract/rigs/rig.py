"""What a broker's test rig offers: the adapter under test, and verbs on the broker's side.

A broker adds a rig with these verbs and one row in `tests/contract/conftest.py`. Users are numbered from 1;
`account(user)` is that user's first account in the rig's environment, funded and empty. Odd users have an account in
the other environment too. Every test runs over every rig; what a broker cannot have stands in `lacks`, with the reason.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol

from bridge.brokers.base import Broker, Credential, Environment


class Trait(StrEnum):
    """What not every broker has. The whole list: whatever else a test needs, every broker has."""

    SEVERAL_ACCOUNTS = "one consent covers several accounts in one environment"
    REFRESH = "access tokens run out and are refreshed"
    PROTECTION = "a position has a stop loss of its own"
    HEDGING = "both sides of one instrument are held at once"
    LAGGING_READS = "what is read may lag behind what was told"
    CASH_EVENTS = "cash that moves without an execution is told, not only read"


class BrokerRig(Protocol):
    """A broker that runs on this machine, an adapter that talks to it, and verbs."""

    broker: Broker
    environment: Environment
    lacks: Mapping[Trait, str]
    instruments: tuple[str, ...]  # at least three that every account may trade, by their names in the record
    longs: tuple[str, ...]  # further ones, of every other kind there is, that can at least be bought
    detection_s: float  # within this a silent or cut connection must be noticed, and a usable one be back

    # ------------------------------------------------------------ who

    def entry(self, user: int) -> dict[str, object]:
        """The user's credential as it is entered, without an account."""

    required: tuple[str, ...]  # the fields that an entry must have

    def credential(self, user: int, **changes: object) -> Credential:
        """The user's stored credential, in the environment of the rig unless changed."""

    def account(self, user: int) -> str:
        """The user's first account in the rig's environment."""

    def account_elsewhere(self, user: int) -> str:
        """An account of the user in the other environment."""

    def wide_credential(self, user: int) -> Credential:
        """A credential of the user that covers every account of theirs, in both environments."""

    def user_with_several(self) -> int:
        """A user whose consent covers several accounts in the rig's environment."""

    def user_with_one(self) -> int:
        """A user whose consent covers exactly one there."""

    async def approve(self, url: str, user: int) -> str:
        """The user's browser goes to a consent address and allows; returns where it is sent back to."""

    # ------------------------------------------------------------ what happens at the broker

    def truth(self, account: str) -> Mapping[str, Any]:
        """What the broker itself believes, in the record's field names (DESIGN §6)."""

    def executions(self, account: str) -> list[dict[str, Any]]:
        """Everything executed on the account, oldest first: id, orderId, symbol, side, units, price."""

    def open(self, account: str, instrument: str, *, buy: bool = True) -> str:
        """Open a small position by other means than the adapter; returns its id."""

    def close(self, account: str, position: str) -> None:
        """Close a position by other means than the adapter."""

    def place(self, account: str, instrument: str) -> str:
        """Place a limit order that does not fill; returns its id."""

    def amend(self, account: str, order: str) -> str:
        """Change the limit of an order that waits; returns the id it has from then on."""

    def cancel(self, account: str, order: str) -> None:
        """Cancel an order."""

    def fill_partly(self, account: str, instrument: str) -> str:
        """Place a limit order that executes in part, the rest of it waits; returns its id."""

    def deposit(self, account: str, amount: int) -> None:
        """Move cash in (or out, when negative)."""

    def protect(self, account: str, position: str) -> None:
        """Put a stop loss on a position. Needs PROTECTION."""

    def move(self, instrument: str) -> None:
        """Change the price of an instrument."""

    # ------------------------------------------------------------ what goes wrong

    def cut(self) -> None:
        """Drop every connection at once."""

    def silence(self) -> AbstractAsyncContextManager[None]:
        """The connections stay up but nothing goes either way, until the block ends."""

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Nobody gets in, without any announcement, until the block ends."""

    def end_account_session(self, account: str) -> None:
        """The broker ends what it has with this account, and with no other."""

    def expire(self, user: int) -> None:
        """The access token runs out; a refresh helps. Needs REFRESH."""

    def revoke(self, user: int) -> None:
        """The user withdraws consent."""

    def throttle(self) -> AbstractAsyncContextManager[None]:
        """Every account request is refused as too frequent, until the block ends."""

    def maintenance(self, seconds: int) -> AbstractAsyncContextManager[None]:
        """Every request is refused with an announced end, until the block ends."""

    def trusting(self) -> AbstractAsyncContextManager[None]:
        """The broker checks as little of who asks as it ever does."""

    def lose(self, account: str) -> AbstractAsyncContextManager[None]:
        """Account events get lost."""

    def duplicate(self) -> AbstractAsyncContextManager[None]:
        """Account events come twice, also after a reconnect."""

    def reorder(self) -> AbstractAsyncContextManager[None]:
        """Account events come in another order."""

    def unknown_values(self, account: str) -> AbstractAsyncContextManager[None]:
        """Account events hold values that no specification names."""

    def absurd_values(self, account: str, variant: str) -> AbstractAsyncContextManager[None]:
        """Account events hold values that cannot be: see `absurdities`."""

    absurdities: tuple[str, ...]

    def absurd_snapshot(self, account: str) -> AbstractAsyncContextManager[None]:
        """Snapshots hold values that cannot be, until the block ends."""

    def broken_snapshot(self, account: str, variant: str) -> AbstractAsyncContextManager[None]:
        """One snapshot is "empty", "short" or an "error"."""

    def late_snapshot(self, account: str) -> AbstractAsyncContextManager[None]:
        """A snapshot arrives late, after a trade that it does not hold; the trade opens a position."""

    def lagging(self, account: str) -> AbstractAsyncContextManager[None]:
        """Everything read shows the account as it was a moment ago, until the block ends. Needs LAGGING_READS."""

    def unknown_messages(self) -> None:
        """Send messages of a kind that did not exist when the adapter was written."""

    def garbage(self) -> None:
        """Send some frames of random bytes."""

    def foreign(self, account: str) -> None:
        """Send events about somebody else's account over this account's connection."""

    # ------------------------------------------------------------ what was seen there

    def logins_of(self, account: str) -> int:
        """Authorisations of this account that were asked for so far."""

    def sessions_of(self, account: str) -> int:
        """Connections on which this account is authorised now."""

    def dials(self) -> int:
        """Connections that were made so far."""

    def refreshes(self) -> int:
        """Tokens renewed so far."""

    def violations(self) -> int:
        """How often the adapter exceeded a published limit."""

    def metric(self, what: str) -> float:
        """One of "lost", "foreign", "quarantined", "unknown", "garbage": what the adapter counted."""


BACK = "https://bridge.example/oauth/callback"
"""Where the brokers send a browser back to."""
