"""Faults that answer for REST: refusals, limits, cut connections, and answers that come late."""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar, Literal

from aiohttp import web
from pydantic import Field

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.faults.base import HandshakeFault, RestFault
from bridge.simulator.alpaca.hooks import RestCall

_ORDER_METHODS = ("POST", "PATCH", "DELETE")


def is_order_request(call: RestCall) -> bool:
    """Whether it may change orders or positions."""
    method, _, path = call.route.partition(" ")
    return method in _ORDER_METHODS and path.startswith(("/v2/orders", "/v2/positions"))


def refusal(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status, headers=headers)


class RouteFault(RestFault):
    """May be limited to some routes."""

    routes: list[str] | None = Field(None, description="REST routes such as 'POST /v2/orders'; absent: all")

    def hits_route(self, call: RestCall) -> bool:
        """`hits_call` for a request on one of these routes."""
        return (self.routes is None or call.route in self.routes) and self.hits_call(call)


class HttpRefused(HandshakeFault, RouteFault):
    title: ClassVar[str] = "plain HTTP refusals: stream handshakes (429, 503 …) or REST (500, 503, 504 …)"

    target: Literal["stream", "rest", "both"] = Field("stream", description="what is refused")
    status: int = Field(503, ge=200, le=599, description="HTTP status; use 429 on streams for 'too many connections'")
    body: str = Field("<html><body>no</body></html>", description="HTTP body")
    retry_after_s: int | None = Field(None, alias="retryAfter", description="Retry-After header, seconds")
    executed: bool = Field(False, description="REST requests are carried out first: their outcome is unknown")

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        if self.target == "rest" or not self.hits(None if caller is None else caller.account_id, environment):
            return None
        return self._answer()

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return self._answer() if not self.executed and self._is_mine(call) else None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        return self._answer() if self.executed and self._is_mine(call) else None

    def _is_mine(self, call: RestCall) -> bool:
        return self.target != "stream" and self.hits_route(call)

    def _answer(self) -> web.Response:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.Response(status=self.status, text=self.body, content_type="text/html", headers=headers)


class RateLimited(RouteFault):
    title: ClassVar[str] = "REST requests are refused with 429 whatever their rate"

    retry_after_s: int = Field(1, alias="retryAfter", ge=0, description="when X-RateLimit-Reset says it is over")
    header: bool = Field(False, description="say Retry-After as well")

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return self.answer() if self.hits_route(call) else None

    def answer(self) -> web.Response:
        services = self.services
        reset = math.ceil(services.clock.now_ms() / 1000) + self.retry_after_s
        headers = {
            "X-RateLimit-Limit": str(services.settings.requests_per_minute),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(reset),
        }
        if self.header:
            headers["Retry-After"] = str(self.retry_after_s)
        return refusal(429, 42910000, "too many requests.", headers)


class OrderRateLimited(RateLimited):
    title: ClassVar[str] = "an order request is carried out, then answered with 429"

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        return self.answer() if is_order_request(call) and self.hits_call(call) else None


class AuthLost(RouteFault):
    title: ClassVar[str] = "REST answers 401 although the credential is good"

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return web.json_response({"message": "unauthorized."}, status=401) if self.hits_route(call) else None


class OrderRejected(RestFault):
    title: ClassVar[str] = "order requests are refused with a chosen status and code"

    status: Literal[403, 422] = Field(403, description="HTTP status")
    code: int = Field(40310000, description="Alpaca's code")
    text: str = Field("insufficient buying power", description="message")

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        if not is_order_request(call) or not self.hits_call(call):
            return None
        return refusal(self.status, self.code, self.text)


class DropAfterRequest(RestFault):
    title: ClassVar[str] = "the connection drops after a REST request came in, before its answer"

    routes: list[str] | None = Field(None, description="routes; absent: everything that changes orders or positions")
    executed: bool = Field(True, description="the request is carried out first")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return self._drop(call) if not self.executed and self._is_mine(call) else None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        return self._drop(call) if self.executed and self._is_mine(call) else None

    def _is_mine(self, call: RestCall) -> bool:
        mine = is_order_request(call) if self.routes is None else call.route in self.routes
        return mine and self.hits_call(call)

    def _drop(self, call: RestCall) -> web.Response:
        if call.request.transport is not None:
            call.request.transport.abort()
        return web.Response(status=500)  # nobody reads it


class SlowRest(RouteFault):
    title: ClassVar[str] = "REST answers come late, or trickle out byte by byte"

    delay_s: float = Field(0.0, alias="delaySeconds", ge=0, description="hold of a whole answer")
    bytes_per_second: int | None = Field(None, alias="bytesPerSecond", ge=1, description="pace of the body")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        if not self.hits_route(call):
            return None
        await asyncio.sleep(self.delay_s)
        if self.bytes_per_second is None or not isinstance(response.body, bytes):
            return None
        return await self._drip(call, response, response.body, self.bytes_per_second)

    async def _drip(self, call: RestCall, response: web.Response, body: bytes, pace: int) -> web.StreamResponse:
        slow = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
        slow.content_length = len(body)
        await slow.prepare(call.request)
        piece, start = max(1, pace // 10), 0
        while start < len(body):
            await slow.write(body[start : start + piece])
            start += piece
            await asyncio.sleep(piece / pace)
        return slow
