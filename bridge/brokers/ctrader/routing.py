"""From one received message to the account it concerns: the hot path, and everything that must not be believed.

Prices come first, because they outnumber everything else: two parses, two look-ups, one quote. An event for an account
that is not on this channel is dropped and counted as a security event; what cannot be read is counted and dropped, and
ten in a row end the channel. Unknown payload types are ignored. No message ever raises out of here.
"""

from __future__ import annotations

import logging
from typing import Protocol

from google.protobuf.message import DecodeError

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader import codec, faults
from bridge.brokers.ctrader.requests import Requests
from bridge.brokers.ctrader.shared_quote import SharedQuote
from bridge.brokers.stats import Stats
from core.account import AccountMirror
from core.errors import ProtocolViolation
from protos.ctrader import PAYLOAD_CLASSES, common_messages_pb2, messages_pb2

log = logging.getLogger(__name__)

GARBAGE_IN_A_ROW = 10
PRICE_LIMIT = 10**15
RENEW_AFTER_BYTES = 16 * 1024  # small, because every channel holds up to this much, and there may be one per account
_REMEMBERED_DEPARTURES = 256
_CHANNEL_EVENTS = frozenset({codec.TOKEN_INVALIDATED, codec.CLIENT_DISCONNECT, codec.ERROR, codec.OA_ERROR})
_ACCOUNT_EVENTS = {
    codec.EXECUTION: "execution",
    codec.TRADER_UPDATED: "trader_updated",
    codec.MARGIN_CHANGED: "margin_changed",
    codec.TRAILING_STOP_CHANGED: "trailing_stop_changed",
    codec.SYMBOL_CHANGED: "symbol_changed",
    codec.ACCOUNT_DISCONNECT: "account_disconnect",
}


class Route(Protocol):
    """One account on a channel, as far as the channel knows it."""

    mirror: AccountMirror
    symbols: dict[int, str]  # subscribed symbol id -> instrument id; what is not in it is not quoted
    holds: dict[int, SharedQuote]  # symbols that it subscribed to for others too, instead

    def event(self, payload_type: int, payload: bytes) -> None:
        """An account event arrived. Must not raise; what it cannot use it quarantines."""

    def ended(self, fault: BrokerFault) -> None:
        """The broker ended this account's authorisation, or the channel is gone."""

    def token_invalidated(self) -> None:
        """The broker ended the token under which this account was authorised."""

    def follow(self) -> None:
        """Bring the price subscriptions in step with what is to be held. Does nothing while that is so."""


class ChannelEvents(Protocol):
    """What a router tells its channel."""

    def application_blocked(self) -> None:
        """The broker cancelled the whole application channel."""

    def unasked_error(self, refusal: faults.Refusal) -> None:
        """An error arrived that answers no request."""

    def unreadable(self) -> None:
        """Too much in a row could not be read."""


class Router:
    """The accounts of one channel and the way of each message to them."""

    def __init__(self, channel: ChannelEvents, requests: Requests, stats: Stats) -> None:
        self._channel = channel
        self._requests = requests
        self._stats = stats
        self._departed: dict[int, None] = {}  # accounts logged out lately: their last events are not foreign
        self._renew()
        self._garbage_streak = 0
        self._garbage_frame = 0
        self._ending = False
        self.routes: dict[int, Route] = {}
        self.frames = 0
        self.spots = 0

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take one whole message from the socket."""
        self.frames += 1
        self._parsed_bytes += len(data)
        if self._parsed_bytes > RENEW_AFTER_BYTES:
            self._renew()
        envelope = self._envelope
        try:
            envelope.ParseFromString(data)  # type: ignore[arg-type]  # takes any buffer
            if envelope.payloadType == 2131:  # codec.SPOT, written out: this line runs for every tick
                spot = self._spot
                spot.ParseFromString(envelope.payload)
                route = self.routes.get(spot.ctidTraderAccountId)
                if route is not None:
                    instrument = route.symbols.get(spot.symbolId)
                    if instrument is not None:
                        bid = spot.bid
                        ask = spot.ask
                        if bid < PRICE_LIMIT and ask < PRICE_LIMIT:
                            self.spots += 1
                            route.mirror.set_quote(instrument, bid or None, ask or None)  # absent reads as 0
                            return
                    elif (shared := route.holds.get(spot.symbolId)) is not None:
                        bid = spot.bid
                        ask = spot.ask
                        if bid < PRICE_LIMIT and ask < PRICE_LIMIT:
                            self.spots += 1
                            shared.tick(bid or None, ask or None)
                            return
                self._odd_spot(route)
                return
        except (DecodeError, UnicodeDecodeError):
            self.garbage("undecodable frame")
            return
        self._dispatch(envelope.payloadType, envelope.payload, codec.text(envelope.clientMsgId))

    def _renew(self) -> None:
        """Begin with new message objects.

        Parsing into the same ones saves a third of the time, but a message keeps the memory of everything that was ever
        parsed into it until it goes itself.
        """
        self._envelope = common_messages_pb2.ProtoMessage()
        self._spot = messages_pb2.ProtoOASpotEvent()
        self._parsed_bytes = 0

    def garbage(self, what: str) -> None:
        """Something that cannot be read. Counted and dropped; ten in a row end the channel."""
        self._stats.count("garbage_frames")
        self._garbage_streak = self._garbage_streak + 1 if self.frames <= self._garbage_frame + 1 else 1
        self._garbage_frame = self.frames
        if self._garbage_streak >= GARBAGE_IN_A_ROW:
            self._garbage_streak = 0
            log.error("too much that cannot be read", extra={"last": what})
            self._channel.unreadable()

    def depart(self, account: int) -> None:
        """The account left this channel; what still arrives for it is late, not foreign."""
        if self.routes.pop(account, None) is not None:
            self._departed[account] = None
            if len(self._departed) > _REMEMBERED_DEPARTURES:
                del self._departed[next(iter(self._departed))]

    def end(self) -> None:
        """The channel is being closed: every account leaves it."""
        self.routes.clear()
        self._ending = True

    def _dispatch(self, payload_type: int, payload: bytes, message_id: str) -> None:
        if payload_type not in PAYLOAD_CLASSES:
            if payload_type == 0:
                self.garbage("no payload type")
            else:
                self._stats.count("unknown_payload_types")
            return
        settled = bool(message_id) and self._requests.answer(message_id, payload_type, payload)
        if payload_type in _ACCOUNT_EVENTS:
            self._account_event(payload_type, payload)
        elif payload_type in _CHANNEL_EVENTS:
            if not settled:
                self._channel_event(payload_type, payload)
        elif payload_type != codec.HEARTBEAT and not settled:
            self._stats.count("ignored_messages")

    def _account_event(self, payload_type: int, payload: bytes) -> None:
        account = codec.account_of(PAYLOAD_CLASSES[payload_type], payload)
        if account is None:
            self.garbage("account event without an account")
            return
        route = self.routes.get(account)
        if route is None:
            self._foreign(account)
            return
        self._stats.count(f"events.{_ACCOUNT_EVENTS[payload_type]}")
        route.event(payload_type, payload)

    def _channel_event(self, payload_type: int, payload: bytes) -> None:
        try:
            if payload_type == codec.CLIENT_DISCONNECT:
                self._channel.application_blocked()
            elif payload_type == codec.TOKEN_INVALIDATED:
                event = codec.decode(messages_pb2.ProtoOAAccountsTokenInvalidatedEvent, payload)
                self._stats.count("events.token_invalidated")
                self._token_invalidated(tuple(event.ctidTraderAccountIds))
            else:
                self._channel.unasked_error(faults.read_refusal(payload_type, payload))
        except ProtocolViolation:
            self.garbage("unreadable channel event")

    def _token_invalidated(self, accounts: tuple[int, ...]) -> None:
        for account in accounts:
            route = self.routes.get(account)
            if route is not None:
                route.token_invalidated()
            else:
                self._stats.count("late_events")  # lists every account of a consent, also those nobody serves here

    def _odd_spot(self, route: Route | None) -> None:
        """A price that is not for use: of an unknown account, of a symbol no longer wanted, or absurd."""
        spot = self._spot
        if route is not None:
            subscribed = spot.symbolId in route.symbols or spot.symbolId in route.holds
            self._stats.count("quarantined" if subscribed else "stray_prices")
        elif spot.ctidTraderAccountId:
            self._foreign(spot.ctidTraderAccountId)
        else:
            self.garbage("price without an account")

    def _foreign(self, account: int) -> None:
        if self._ending or account in self._departed:
            self._stats.count("late_events")
            return
        self._stats.count("foreign_events")
        if self._stats.get("foreign_events") <= 3:
            log.error("the broker sent an event for an account that is not on this channel")
