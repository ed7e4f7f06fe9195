"""Whose account? What a token lists, and the choice of an account from it.

Before an account is used for a user, that user's own token must list it: an `ALREADY_LOGGED_IN` proves nothing about
the caller (DESIGN §5). Listings are kept by the token's fingerprint and dropped when the token ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.brokers.base import BrokerAccount, BrokerFault, ChooseAccount, Environment, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.scheduling import Priority
from core.secret import Secret
from protos.ctrader import messages_pb2

KEPT_LISTINGS = 100_000


@dataclass(frozen=True, slots=True)
class Listed:
    """One account that a token covers."""

    number: int
    environment: Environment
    login: str | None
    broker_title: str | None

    def account(self) -> BrokerAccount:
        return BrokerAccount(str(self.number), self.environment, self.login, self.broker_title)


def kept(accounts: Sequence[BrokerAccount], environment: Environment, account_id: str | None) -> Listed | None:
    """The named account as it stands in what is kept with a grant; None when that does not prove it covered."""
    for account in accounts:
        if account.account_id == account_id and account.environment is environment and account_id.isdecimal():
            return Listed(int(account_id), environment, account.login, account.broker_title)
    return None


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything a token covers, and when it was read (monotonic s)."""

    accounts: tuple[Listed, ...]
    read_at: float


class Listings:
    """Listings by token fingerprint, the least recently used dropped first."""

    def __init__(self) -> None:
        self._listings: OrderedDict[str, Listing] = OrderedDict()

    def get(self, fingerprint: str) -> Listing | None:
        listing = self._listings.get(fingerprint)
        if listing is not None:
            self._listings.move_to_end(fingerprint)
        return listing

    def put(self, fingerprint: str, listing: Listing) -> None:
        self._listings[fingerprint] = listing
        if len(self._listings) > KEPT_LISTINGS:
            self._listings.popitem(last=False)

    def drop(self, fingerprint: str) -> None:
        self._listings.pop(fingerprint, None)


async def read_listing(channel: Channel, token: Secret, priority: Priority, timeout_s: float, now: float) -> Listing:
    """Ask the broker what a token covers. Raises BrokerFault."""
    request = messages_pb2.ProtoOAGetAccountListByAccessTokenReq(accessToken=token.reveal())
    reply = messages_pb2.ProtoOAGetAccountListByAccessTokenRes
    answer = await channel.call(request, reply, priority, timeout_s)
    accounts = tuple(
        Listed(
            account.ctidTraderAccountId,
            Environment.LIVE if account.isLive else Environment.DEMO,
            str(account.traderLogin) if account.HasField("traderLogin") else None,
            codec.text(account.brokerTitleShort) or None,
        )
        for account in answer.ctidTraderAccount
    )
    return Listing(accounts, now)


def choose(listing: Listing, environment: Environment, account_id: str | None) -> Listed:
    """The account to serve. Raises BrokerFault (FATAL_USER) when the token does not cover it, or ChooseAccount."""
    if account_id is not None:
        for account in listing.accounts:
            if str(account.number) == account_id:
                if account.environment is not environment:
                    raise _refused(
                        ReasonCode.WRONG_ENVIRONMENT,
                        f"This is a {account.environment} account, but it was asked for as {environment}.",
                    )
                return account
        raise _refused(ReasonCode.ACCOUNT_NOT_COVERED, "Your consent does not cover this account; please connect it.")
    here = [account for account in listing.accounts if account.environment is environment]
    if not here:
        raise _refused(ReasonCode.NO_ACCOUNTS, f"Your consent covers no {environment} account.")
    if len(here) > 1:
        reason = Reason(ReasonCode.CHOOSE_ACCOUNT, "Your consent covers several accounts; please choose one.")
        raise ChooseAccount(reason, [account.account() for account in here])
    return here[0]


def _refused(code: ReasonCode, message: str) -> BrokerFault:
    return BrokerFault(FaultKind.FATAL_USER, Reason(code, message))
