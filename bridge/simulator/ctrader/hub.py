"""Who listens to which account: the authorisations of all connections, and how events reach them.

One account may be authorised on several connections (a second client, a second process); each gets every event, so
a trade by one is seen by the others. Only this module and `requests.session` change authorisations.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from bridge.simulator.ctrader.connection import Authorisation, Connection
from bridge.simulator.ctrader.envelope import Outgoing
from protos.ctrader import messages_pb2 as m

if TYPE_CHECKING:
    from bridge.simulator.ctrader.depth import DepthBoard
    from bridge.simulator.ctrader.spots import SpotBoard


class Hub:
    """All open connections and the connections of each account."""

    def __init__(self, spots: SpotBoard, depth: DepthBoard) -> None:
        self.connections: dict[int, Connection] = {}
        self._numbers = itertools.count(1)
        self._listeners: dict[int, dict[Connection, Authorisation]] = {}
        self._spots = spots
        self._depth = depth

    def next_number(self) -> int:
        """Number of the next connection."""
        return next(self._numbers)

    def listeners(self, account_id: int) -> dict[Connection, Authorisation]:
        """Connections on which the account is authorised."""
        return self._listeners.get(account_id, {})

    def authorise(self, connection: Connection, authorisation: Authorisation) -> None:
        connection.authorisations[authorisation.account_id] = authorisation
        self._listeners.setdefault(authorisation.account_id, {})[connection] = authorisation

    def leave(self, connection: Connection, account_id: int) -> bool:
        """End one account session with its subscriptions; False when there was none."""
        authorisation = connection.authorisations.pop(account_id, None)
        if authorisation is None:
            return False
        self._forget(connection, authorisation)
        return True

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection and all its account sessions."""
        self.connections.pop(connection.number, None)
        for authorisation in connection.authorisations.values():
            self._forget(connection, authorisation)

    def _forget(self, connection: Connection, authorisation: Authorisation) -> None:
        listeners = self._listeners.get(authorisation.account_id)
        if listeners is not None:
            listeners.pop(connection, None)
            if not listeners:
                del self._listeners[authorisation.account_id]
        self._spots.leave(connection, authorisation)
        self._depth.leave(connection, authorisation)

    def publish(
        self, account_id: int, message: Message, *, origin: Connection | None = None, client_msg_id: str = ""
    ) -> None:
        """Send an account's event to all its listeners; the one that caused it gets its clientMsgId back."""
        listeners = self._listeners.get(account_id)
        if not listeners:
            return
        payload = message.SerializeToString()
        for connection in list(listeners):
            echoed = client_msg_id if connection is origin else ""
            connection.send(Outgoing(message, account_id, echoed, payload))

    def announce_symbol(self, account_ids: Iterable[int], symbol_id: int) -> None:
        """Send 2120 to all sessions of these accounts: the terms of a symbol changed."""
        for account_id in account_ids:
            if account_id in self._listeners:
                self.publish(
                    account_id, m.ProtoOASymbolChangedEvent(ctidTraderAccountId=account_id, symbolId=[symbol_id])
                )

    def publish_to(self, connection: Connection, account_id: int, message: Message, client_msg_id: str) -> None:
        """Send something about an account to one connection only, such as the refusal of its request."""
        connection.send(Outgoing(message, account_id, client_msg_id))

    def end_grant(self, account_ids: Collection[int], reason: str, *, drop: bool, disconnect: bool) -> None:
        """Tell every connection that sessions of a grant's accounts lost their token (2147).

        `drop` ends them, `disconnect` adds 2164. Source: reference/ctrader.md §2.3.
        """
        for connection in list(self.connections.values()):
            hit = [account_id for account_id in connection.authorisations if account_id in account_ids]
            if hit:
                self.invalidate(connection, hit, reason, drop=drop, disconnect=disconnect)

    def invalidate(
        self, connection: Connection, account_ids: Iterable[int], reason: str, *, drop: bool, disconnect: bool
    ) -> None:
        """Send 2147 for accounts on one connection, see `end_grant`."""
        ids = list(account_ids)
        event = m.ProtoOAAccountsTokenInvalidatedEvent(ctidTraderAccountIds=ids, reason=reason)
        connection.send(Outgoing(event))
        if not drop:
            return
        for account_id in ids:
            self.leave(connection, account_id)
            if disconnect:
                self.disconnect_notice(connection, account_id)

    def disconnect_notice(self, connection: Connection, account_id: int) -> None:
        """Send 2164: the account session is over, the socket stays open."""
        event = m.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=account_id)
        connection.send(Outgoing(event, account_id))
