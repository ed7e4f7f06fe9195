"""Mirrors, readings and sources for the cache tests, built without any broker."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bridge.brokers.base import Reason, ReasonCode
from bridge.cache.record import Reading, RecordStatus
from core.account import AccountMirror, Quote
from core.instruments import Catalogue, Hop, Instrument
from core.orders import Order, OrderType, Side
from core.positions import Position

NOW_MS = 1_732_341_720_000


def decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def reading_of(vector: dict[str, Any]) -> Reading:
    """The reading that one entry of tests/fixtures/record_vectors.json describes."""
    reason = vector["reason"] and Reason(ReasonCode(vector["reason"][0]), vector["reason"][1])
    said = vector["mirror"]
    mirror = None if said is None else mirror_of(vector, said)
    account = said and said["accountId"]
    environment = said["environment"] if said else "demo"
    return Reading("ctrader", environment, account, RecordStatus(vector["status"]), reason, mirror, vector["asOf"])


def mirror_of(vector: dict[str, Any], said: dict[str, Any]) -> AccountMirror:
    catalogue = Catalogue()
    for number, name, digits, base, quote, lot in vector["instruments"]:
        catalogue.instruments[number] = Instrument(number, name, digits, base, quote, Decimal(lot))
    for source, target, hops in vector["chains"]:
        catalogue.chains[(source, target)] = tuple(Hop(number, inverse) for number, inverse in hops)
    mirror = AccountMirror(
        said["environment"],
        said["accountId"],
        catalogue,
        currency=said["currency"],
        money_digits=said["moneyDigits"],
        leverage=decimal(said["leverage"]),
        can_trade=said["canTrade"],
        login=said["login"],
        broker_title=said["brokerTitle"],
        balance=decimal(said["balance"]),
        content_at_ms=said["contentAt"],
        confirmed_at_ms=said["confirmedAt"],
    )
    for each in vector["positions"]:
        mirror.positions[each["id"]] = Position(
            each["id"],
            each["instrument"],
            Side(each["side"]),
            Decimal(each["units"]),
            Decimal(each["entryPrice"]),
            decimal(each.get("stopLoss")),
            decimal(each.get("takeProfit")),
            Decimal(each.get("swap", "0")),
            Decimal(each.get("commission", "0")),
            decimal(each.get("usedMargin")),
            each["openedAt"],
        )
    for each in vector["orders"]:
        mirror.orders[each["id"]] = Order(
            each["id"],
            each["instrument"],
            Side(each["side"]),
            OrderType(each["type"]),
            Decimal(each["units"]),
            limit_price=decimal(each.get("limitPrice")),
            created_at_ms=each["createdAt"],
        )
    mirror.quotes = {number: Quote(bid, ask) for number, (bid, ask) in vector["quotes"].items()}
    return mirror


def account(balance: str = "100.00", *, at_risk: bool = True) -> AccountMirror:
    """A mirror with a snapshot: one EURUSD position when at risk, else empty."""
    instrument = Instrument("1", "EURUSD", 5, "EUR", "USD", Decimal(100_000))
    mirror = AccountMirror("demo", "1", Catalogue({"1": instrument}), currency="USD", balance=Decimal(balance))
    mirror.confirmed_at_ms = mirror.content_at_ms = NOW_MS
    if at_risk:
        position = Position("p", "1", Side.BUY, Decimal(1000), Decimal("1.1"), used_margin=Decimal("11.00"))
        mirror.positions["p"] = position
        mirror.quotes["1"] = Quote(110_000, 110_002)
    return mirror


@dataclass(eq=False)
class Source:
    """A session as the flusher sees it; `fenced_by` is what it was told."""

    mirror: AccountMirror | None = field(default_factory=account)
    as_of_ms: int | None = NOW_MS
    status: RecordStatus = RecordStatus.LIVE
    reason: Reason | None = None
    fenced_by: list[int] = field(default_factory=list)
    readings: int = 0
    recalled: list[bytes] = field(default_factory=list)

    def reading(self) -> Reading:
        self.readings += 1
        return Reading("ctrader", "demo", "1", self.status, self.reason, self.mirror, self.as_of_ms)

    def recall(self, document: bytes) -> None:
        self.recalled.append(document)

    def fenced(self, fence: int) -> None:
        self.fenced_by.append(fence)
