"""Faults of REST answers: refusals, limits, cuts, late, broken, short or absurd documents."""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar, Literal

import orjson
from aiohttp import web
from pydantic import Field

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.faults.base import HandshakeFault, RestFault
from bridge.simulator.alpaca.faults.messages import NOT_JSON
from bridge.simulator.alpaca.faults.updates import UNKNOWN, distort
from bridge.simulator.alpaca.hooks import RestCall

Part = Literal["account", "positions", "orders", "activities"]
PARTS: tuple[Part, ...] = ("account", "positions", "orders", "activities")
_ROUTES: dict[str, Part] = {
    "GET /v2/account": "account",
    "GET /v2/positions": "positions",
    "GET /v2/orders": "orders",
    "GET /v2/account/activities": "activities",
}
_ORDER_METHODS = ("POST", "PATCH", "DELETE")


def part_of(call: RestCall) -> Part | None:
    """Which part of an account's picture a request reads as a whole."""
    if call.route.startswith("GET /v2/account/activities"):
        return "activities"
    return _ROUTES.get(call.route)


def is_order_request(call: RestCall) -> bool:
    """Whether it may change orders or positions."""
    method, _, path = call.route.partition(" ")
    return method in _ORDER_METHODS and path.startswith(("/v2/orders", "/v2/positions"))


def refusal(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status, headers=headers)


def in_place_of(response: web.Response, body: bytes) -> web.Response:
    """The same answer with another body."""
    return web.Response(status=response.status, body=body, content_type="application/json")


def document_of(response: web.Response) -> Any:
    """The JSON of a good answer, None for any other."""
    body = response.body
    return orjson.loads(body) if response.status == 200 and isinstance(body, bytes) and body else None


class HttpRefused(HandshakeFault, RestFault):
    title: ClassVar[str] = "plain HTTP refusals: stream handshakes (429, 503 …) or REST (500, 503, 504 …)"

    target: Literal["stream", "rest", "both"] = Field("stream", description="what is refused")
    status: int = Field(503, ge=200, le=599, description="HTTP status; use 429 on streams for 'too many connections'")
    body: str = Field("<html><body>no</body></html>", description="HTTP body")
    retry_after_s: int | None = Field(None, alias="retryAfter", description="Retry-After header, seconds")
    executed: bool = Field(False, description="REST requests are carried out first: their outcome is unknown")
    routes: list[str] | None = Field(None, description="REST routes such as 'POST /v2/orders'; absent: all")

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        if self.target == "rest" or not self.hits(None if caller is None else caller.account_id, environment):
            return None
        return self._answer()

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return self._answer() if not self.executed and self._is_mine(call) else None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        return self._answer() if self.executed and self._is_mine(call) else None

    def _is_mine(self, call: RestCall) -> bool:
        if self.target == "stream" or (self.routes is not None and call.route not in self.routes):
            return False
        return self.hits_call(call)

    def _answer(self) -> web.Response:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.Response(status=self.status, text=self.body, content_type="text/html", headers=headers)


class RateLimited(RestFault):
    title: ClassVar[str] = "REST requests are refused with 429 whatever their rate"

    retry_after_s: int = Field(1, alias="retryAfter", ge=0, description="when X-RateLimit-Reset says it is over")
    header: bool = Field(False, description="say Retry-After as well")
    routes: list[str] | None = Field(None, description="routes such as 'GET /v2/orders'; absent: all")

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        if (self.routes is not None and call.route not in self.routes) or not self.hits_call(call):
            return None
        return self.answer()

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


class AuthLost(RestFault):
    title: ClassVar[str] = "REST answers 401 although the credential is good"

    routes: list[str] | None = Field(None, description="routes such as 'GET /v2/account'; absent: all")

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        if (self.routes is not None and call.route not in self.routes) or not self.hits_call(call):
            return None
        return web.json_response({"message": "unauthorized."}, status=401)


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


class SlowRest(RestFault):
    title: ClassVar[str] = "REST answers come late, or trickle out byte by byte"

    delay_s: float = Field(0.0, alias="delaySeconds", ge=0, description="hold of a whole answer")
    bytes_per_second: int | None = Field(None, alias="bytesPerSecond", ge=1, description="pace of the body")
    routes: list[str] | None = Field(None, description="routes; absent: all")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        if (self.routes is not None and call.route not in self.routes) or not self.hits_call(call):
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


class BrokenBody(RestFault):
    title: ClassVar[str] = "REST answers with half a body, half a document, HTML, or random bytes"

    variant: Literal["cut", "half", "html", "random"] = Field(
        "half", description="cut: the connection ends within the body; half: a whole body with half a document"
    )
    parts: list[Part] = Field(list(PARTS), description="which answers")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        body = response.body
        if part_of(call) not in self.parts or response.status != 200 or not isinstance(body, bytes):
            return None
        if not self.hits_call(call):
            return None
        match self.variant:
            case "half":
                return in_place_of(response, body[: len(body) // 2])
            case "html":
                return web.Response(status=200, body=NOT_JSON, content_type="text/html")
            case "random":
                return in_place_of(response, self.services.random.randbytes(64))
        return await self._cut(call, body)

    async def _cut(self, call: RestCall, body: bytes) -> web.StreamResponse:
        cut = web.StreamResponse(headers={"Content-Type": "application/json"})
        cut.content_length = len(body) + 1
        await cut.prepare(call.request)
        await cut.write(body[: len(body) // 2])
        if call.request.transport is not None:
            call.request.transport.close()
        return cut


class BrokenSnapshot(RestFault):
    title: ClassVar[str] = "a snapshot is an error, empty, cut short, or lacks fields"

    variant: Literal["error", "empty", "short", "missing_fields"] = Field("empty", description="what is wrong with it")
    parts: list[Part] = Field(["positions"], description="which answers")
    fields: list[str] | None = Field(
        None, description="fields that are missing; absent: all but id, status, symbol and asset_id"
    )
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        document = document_of(response)
        if document is None or part_of(call) not in self.parts or not self.hits_call(call):
            return None
        if self.variant == "error":
            return refusal(500, 50010000, "internal server error occurred")
        return in_place_of(response, orjson.dumps(self._broken(document)))

    def _broken(self, document: Any) -> Any:
        match self.variant:
            case "empty":
                return [] if isinstance(document, list) else {}
            case "short":
                return document[: len(document) // 2] if isinstance(document, list) else document
            case _:
                rows = document if isinstance(document, list) else [document]
                kept = [{name: value for name, value in row.items() if not self._is_missing(name)} for row in rows]
                return kept if isinstance(document, list) else kept[0]

    def _is_missing(self, name: str) -> bool:
        if self.fields is not None:
            return name in self.fields
        return name not in ("id", "status", "symbol", "asset_id")


class ShortPages(RestFault):
    title: ClassVar[str] = "pages of orders and activities hold few rows, whatever was asked for"

    rows: int = Field(1, ge=1, description="rows a page")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        document = document_of(response)
        if part_of(call) not in ("orders", "activities") or not isinstance(document, list):
            return None
        if len(document) <= self.rows or not self.hits_call(call):
            return None
        return in_place_of(response, orjson.dumps(document[: self.rows]))


class OddAnswer(RestFault):
    title: ClassVar[str] = "REST documents with unknown enums, unknown fields, or absurd values"

    variant: Literal[
        "unknown_enum", "unknown_fields", "negative_qty", "nan_price", "inf_price", "huge_money", "not_a_number",
        "year_1970", "year_2100",
    ] = Field("unknown_enum", description="what is odd")  # fmt: skip
    parts: list[Part] = Field(list(PARTS), description="which answers")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        document = document_of(response)
        if not document or part_of(call) not in self.parts or not self.hits_call(call):
            return None
        for row in document if isinstance(document, list) else [document]:
            self._distort(row)
        return in_place_of(response, orjson.dumps(document))

    def _distort(self, row: dict[str, Any]) -> None:
        if self.variant == "unknown_fields":
            row["zz_new"] = {"hello": ["world", None]}
        elif self.variant == "unknown_enum":
            for name in ("status", "type", "order_type", "side", "asset_class", "activity_type", "time_in_force"):
                if isinstance(row.get(name), str):
                    row[name] = UNKNOWN
        else:
            distort(row, self.variant)
