"""Who may ask what: the application gate and the account gate, decided on plain values.

Source: reference/ctrader.md §2.2. Application auth comes before everything but heartbeats; a request that names an
account needs that account authorised on this very connection.
"""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.message import Message

from bridge.simulator.ctrader.refusals import Refused, not_authorized
from protos.ctrader import messages_pb2 as m

# Requests that name an account which need not be authorised yet.
_OPENS_ACCOUNT = (m.ProtoOAAccountAuthReq,)


def account_of(request: Message) -> int | None:
    """The account a request names, None for requests about no account."""
    if "ctidTraderAccountId" not in request.DESCRIPTOR.fields_by_name:
        return None
    return int(request.ctidTraderAccountId)  # type: ignore[attr-defined] # the descriptor was asked first


def application_gate(app_authorised: bool, request: Message) -> Refused | None:
    """The refusal of anything before application auth, and of a second application auth."""
    if isinstance(request, m.ProtoOAApplicationAuthReq):
        if app_authorised:
            return Refused("CH_CLIENT_ALREADY_AUTHENTICATED", "Application is already authorized in this channel")
        return None
    if not app_authorised:
        return Refused("CH_CLIENT_NOT_AUTHENTICATED", "Application is not authorized")
    return None


def account_gate(authorised: Collection[int], request: Message) -> Refused | None:
    """The refusal of a request for an account that is not authorised on this connection."""
    account_id = account_of(request)
    if account_id is None or account_id in authorised or isinstance(request, _OPENS_ACCOUNT):
        return None
    return not_authorized(account_id)
