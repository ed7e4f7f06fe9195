"""How the broker says no: an error code with the text seen at the real one, and the message that carries it.

Codes and texts: reference/ctrader.md §2.4. Handlers raise `Refused` (or `OrderRefused` for an order-level refusal);
`dispatch` turns it into the message.
"""

from __future__ import annotations

from google.protobuf.message import Message

from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m

NOT_AUTHORIZED = "Trading account is not authorized"


class Refused(Exception):
    """A request that gets ProtoOAErrorRes. `close`: the server closes the connection after saying so."""

    def __init__(
        self,
        code: str,
        description: str,
        *,
        account_id: int | None = None,
        retry_after_s: int | None = None,
        maintenance_end: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.account_id = account_id
        self.retry_after_s = retry_after_s
        self.maintenance_end = maintenance_end
        self.close = close

    def message(self) -> Message:
        return m.ProtoOAErrorRes(
            errorCode=self.code,
            description=self.description,
            ctidTraderAccountId=self.account_id,
            retryAfter=self.retry_after_s,
            maintenanceEndTimestamp=self.maintenance_end,
        )


class RefusedByProxy(Refused):
    """A refusal in the common carrier, ProtoErrorRes; its maintenance end is in milliseconds."""

    def message(self) -> Message:
        return common.ProtoErrorRes(
            errorCode=self.code, description=self.description, maintenanceEndTimestamp=self.maintenance_end
        )


class OrderRefused(Refused):
    """An order-level refusal, ProtoOAOrderErrorEvent: ids are present even when zero (reference/ctrader.md §2.4)."""

    def __init__(
        self, code: str, description: str, account_id: int, *, order_id: int = 0, position_id: int = 0
    ) -> None:
        super().__init__(code, description, account_id=account_id)
        self.order_id = order_id
        self.position_id = position_id

    def message(self) -> Message:
        return m.ProtoOAOrderErrorEvent(
            ctidTraderAccountId=self.account_id,
            errorCode=self.code,
            orderId=self.order_id,
            positionId=self.position_id,
            description=self.description,
        )


def unsupported(payload_type: int) -> RefusedByProxy:
    return RefusedByProxy("UNSUPPORTED_MESSAGE", f"Unsupported message: {payload_type}")


def not_authorized(account_id: int) -> Refused:
    return Refused("INVALID_REQUEST", NOT_AUTHORIZED, account_id=account_id)
