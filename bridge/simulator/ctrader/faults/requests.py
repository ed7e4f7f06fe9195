"""Faults in answers: maintenance, limits, refused refreshes, broken snapshots, slow or lying auth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bridge.simulator.ctrader import grants
from bridge.simulator.ctrader.faults.base import Fault, RequestFault
from bridge.simulator.ctrader.refusals import OrderRefused, Refused, RefusedByProxy
from protos.ctrader import messages_pb2 as m

if TYPE_CHECKING:
    from bridge.simulator.ctrader.requests.call import Call

_ORDERS = (
    m.ProtoOANewOrderReq,
    m.ProtoOACancelOrderReq,
    m.ProtoOAAmendOrderReq,
    m.ProtoOAAmendPositionSLTPReq,
    m.ProtoOAClosePositionReq,
)
_AUTH = (m.ProtoOAApplicationAuthReq, m.ProtoOAAccountAuthReq)
TEN_YEARS_S = 10 * 365 * 86_400


def refuse(call: Call[Any], refusal: Refused) -> bool:
    """Answer with a refusal; the request is dealt with."""
    call.services.counters.errors[refusal.code] += 1
    call.reply(refusal.message())
    return True


class Maintenance(RequestFault):
    title: ClassVar[str] = "maintenance: requests are answered SERVER_IS_UNDER_MAINTENANCE, or never"

    variant: Literal["seconds", "milliseconds", "past", "absent", "far", "hang"] = Field(
        "seconds", description="unit and sense of maintenanceEndTimestamp; hang: no answer at all"
    )
    ends_in_s: int = Field(5, alias="endsInSeconds", ge=0, description="announced end from now")
    code: Literal["SERVER_IS_UNDER_MAINTENANCE", "CANT_ROUTE_REQUEST"] = Field("SERVER_IS_UNDER_MAINTENANCE")
    scope: Literal["all", "auth"] = Field("all", description="auth: application and account auth only")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if self.scope == "auth" and not isinstance(call.request, _AUTH):
            return False
        if not self.hits(call.account_id, call.connection):
            return False
        if self.variant == "hang":
            return True
        now_s = call.now_ms // 1000
        text = "Server is under maintenance"
        match self.variant:
            case "milliseconds":
                end_ms = (now_s + self.ends_in_s) * 1000
                return refuse(call, RefusedByProxy(self.code, text, maintenance_end=end_ms))
            case "past":
                end = now_s - 3_600
            case "far":
                end = now_s + TEN_YEARS_S
            case "absent":
                return refuse(call, Refused(self.code, text, account_id=call.account_id))
            case _:
                end = now_s + self.ends_in_s
        return refuse(call, Refused(self.code, text, account_id=call.account_id, maintenance_end=end))


class RateLimited(RequestFault):
    title: ClassVar[str] = "requests are refused as too frequent whatever their rate"

    retry_after_s: int | None = Field(
        None, alias="retryAfter", ge=0, description="with it BLOCKED_PAYLOAD_TYPE, else REQUEST_FREQUENCY_EXCEEDED"
    )
    requests: list[str] | None = Field(None, description="message names such as ProtoOATraderReq; absent: all")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if self.requests is not None and call.request.DESCRIPTOR.name not in self.requests:
            return False
        if not self.hits(call.account_id, call.connection):
            return False
        return refuse(call, rate_refusal(self.retry_after_s, call.account_id))


class OrderRateLimited(RequestFault):
    title: ClassVar[str] = "an order is executed, then answered with a rate limit"

    retry_after_s: int = Field(1, alias="retryAfter", ge=0, description="seconds in the answer")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, _ORDERS) or not self.hits(call.account_id, call.connection):
            return False
        # Events of the execution go out uncorrelated; the correlated answer is the refusal.
        asked_as, call.client_msg_id = call.client_msg_id, ""
        proceed()
        call.client_msg_id = asked_as
        return refuse(call, rate_refusal(self.retry_after_s, call.account_id))


def rate_refusal(retry_after_s: int | None, account_id: int | None) -> Refused:
    if retry_after_s is None:
        text = "You have reached the rate limit of requests"
        return Refused("REQUEST_FREQUENCY_EXCEEDED", text, account_id=account_id)
    return Refused(
        "BLOCKED_PAYLOAD_TYPE", "You are being rate limited", account_id=account_id, retry_after_s=retry_after_s
    )


class RefreshRefused(RequestFault):
    title: ClassVar[str] = "token refresh refused, in band and by HTTP"

    code: Literal["CH_ACCESS_TOKEN_INVALID", "OA_AUTH_TOKEN_EXPIRED", "ACCESS_DENIED"] = "CH_ACCESS_TOKEN_INVALID"
    users: list[int] | None = Field(None, description="numbers of the users concerned; absent: all")
    expire: bool = Field(True, description="also expire their access tokens now, so that a refresh is tried")

    def begin(self) -> None:
        if not self.expire:
            return
        for user in self.users if self.users is not None else list(self.services.world.of_user):
            grants.expire(self.services, user)

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, m.ProtoOARefreshTokenReq) or not self.refuses(call.request.refreshToken):
            return False
        return refuse(call, Refused(self.code, "Access denied"))

    def refuses(self, refresh_token: str) -> bool:
        """Whether this refresh token is turned down."""
        if self.users is not None:
            known = (self.services.tokens.grant_of_user(user) for user in self.users)
            if refresh_token not in {grant.refresh_token for grant in known if grant is not None}:
                return False
        if self.over or not self.strikes():
            return False
        self.services.counters.refresh_failures += 1
        return True


class BrokenSnapshot(RequestFault):
    title: ClassVar[str] = "snapshot (reconcile) answered with an error, empty, or cut short"

    variant: Literal["error", "empty", "short"] = Field("empty", description="what is wrong with it")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, m.ProtoOAReconcileReq):
            return False
        if call.account_id not in call.connection.authorisations or not self.hits(call.account_id, call.connection):
            return False
        if self.variant == "error":
            return refuse(call, Refused("UNKNOWN_ERROR", "Internal error", account_id=call.account_id))
        answer = m.ProtoOAReconcileRes(ctidTraderAccountId=call.account_id)
        if self.variant == "short":
            whole = call.services.faults.answer_of(call)
            if isinstance(whole, m.ProtoOAReconcileRes):
                answer = whole
            del answer.position[len(answer.position) // 2 :]
            del answer.order[len(answer.order) // 2 :]
        call.reply(answer)
        return True


class ShortPages(Fault):
    title: ClassVar[str] = "history pages of few rows with hasMore"

    rows: int = Field(1, ge=1, description="rows a page")


class AlreadyLoggedIn(RequestFault):
    title: ClassVar[str] = "account auth succeeds but is answered ALREADY_LOGGED_IN"

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, m.ProtoOAAccountAuthReq) or call.account_id in call.connection.authorisations:
            return False
        if not self.hits(call.account_id, call.connection):
            return False
        asked_as, call.client_msg_id = call.client_msg_id, ""
        muted, call.connection.mute = call.connection.mute, True
        proceed()
        call.connection.mute, call.client_msg_id = muted, asked_as
        text = "Trading account is already authorized in this channel"
        return refuse(call, Refused("ALREADY_LOGGED_IN", text, account_id=call.account_id))


class SlowAuth(RequestFault):
    title: ClassVar[str] = "account auth answered late or never"

    delay_s: float | None = Field(30.0, alias="delaySeconds", ge=0, description="null: never answered")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, m.ProtoOAAccountAuthReq) or not self.hits(call.account_id, call.connection):
            return False
        if self.delay_s is not None:
            call.connection.later(self.delay_s, proceed)
        return True


class OrderRejected(RequestFault):
    title: ClassVar[str] = "order requests are refused with a chosen code"

    code: str = Field("TRADING_DISABLED", description="error code of the order error event")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        if not isinstance(call.request, _ORDERS) or not self.hits(call.account_id, call.connection):
            return False
        return refuse(call, OrderRefused(self.code, "Refused on purpose", call.account_id or 0))


class DropAfterRequest(RequestFault):
    title: ClassVar[str] = "the connection drops after a request came in, before its answer"

    requests: list[str] | None = Field(None, description="message names; absent: the five order requests")
    executed: bool = Field(True, description="the request is carried out first")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        wanted = self.requests if self.requests is not None else [each.__name__ for each in _ORDERS]
        if call.request.DESCRIPTOR.name not in wanted or not self.hits(call.account_id, call.connection):
            return False
        call.connection.mute = True
        if self.executed:
            proceed()
        call.connection.abort()
        return True
