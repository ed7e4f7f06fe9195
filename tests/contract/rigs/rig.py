"""What a broker's test rig offers: the adapter under test, and verbs on the broker's side.

A second broker adds a rig with the same verbs and one row in `test_broker_contract.py`. Users are numbered from 1;
`account(user)` is that user's first account in the rig's environment, funded and empty.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from bridge.brokers.base import Broker, Credential, Environment


class BrokerRig(Protocol):
    """A broker that runs on this machine, an adapter that talks to it, and verbs."""

    broker: Broker
    environment: Environment
    instruments: tuple[str, ...]  # at least three that every account may trade; the last ones need conversion chains
    detection_s: float  # within this a silent or cut connection must be noticed, and a usable one be back

    # ------------------------------------------------------------ who

    def credential(self, user: int, **changes: object) -> Credential:
        """The user's stored credential, in the environment of the rig unless changed."""

    def account(self, user: int) -> str:
        """The user's first account in the rig's environment."""

    def account_elsewhere(self, user: int) -> str:
        """An account of the user in the other environment."""

    def user_with_several(self) -> int:
        """A user whose consent covers several accounts in the rig's environment."""

    def user_with_one(self) -> int:
        """A user whose consent covers exactly one there."""

    # ------------------------------------------------------------ what happens at the broker

    def truth(self, account: str) -> Mapping[str, Any]:
        """What the broker itself believes, in the record's field names (DESIGN §6)."""

    def open(self, account: str, instrument: str, *, buy: bool = True) -> str:
        """Open a small position by other means than the adapter; returns its id."""

    def close(self, account: str, position: str) -> None:
        """Close a position by other means than the adapter."""

    def place(self, account: str, instrument: str) -> str:
        """Place a limit order that does not fill; returns its id."""

    def cancel(self, account: str, order: str) -> None:
        """Cancel an order."""

    def deposit(self, account: str, amount: int) -> None:
        """Move cash in (or out, when negative)."""

    def protect(self, account: str, position: str) -> None:
        """Put a stop loss on a position."""

    def move(self, instrument: str) -> None:
        """Change the price of an instrument."""

    # ------------------------------------------------------------ what goes wrong

    def cut(self) -> None:
        """Drop every connection at once."""

    def silence(self) -> AbstractAsyncContextManager[None]:
        """The connections stay up but nothing goes either way, until the block ends."""

    def end_account_session(self, account: str) -> None:
        """The broker ends this account's authorisation, the connection stays."""

    def expire(self, user: int) -> None:
        """The access token runs out; a refresh helps."""

    def revoke(self, user: int) -> None:
        """The user withdraws consent."""

    def throttle(self) -> AbstractAsyncContextManager[None]:
        """Every account request is refused as too frequent, until the block ends."""

    def maintenance(self, seconds: int) -> AbstractAsyncContextManager[None]:
        """Every request is refused with an announced end, until the block ends."""

    def already_logged_in(self) -> AbstractAsyncContextManager[None]:
        """The broker answers every account login as if it were a repeated one."""

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

    def broken_snapshot(self, account: str, variant: str) -> AbstractAsyncContextManager[None]:
        """One snapshot is "empty", "short" or an "error"."""

    def late_snapshot(self, account: str) -> AbstractAsyncContextManager[None]:
        """A snapshot arrives late, after a trade that it does not hold."""

    def unknown_messages(self) -> None:
        """Send messages of a kind that did not exist when the adapter was written."""

    def garbage(self) -> None:
        """Send some frames of random bytes."""

    def foreign(self, account: str) -> None:
        """Send events about an account that nobody asked for, over this account's connection."""

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
