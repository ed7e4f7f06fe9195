"""Faults of what REST answers say: broken, short, incomplete or absurd documents of an account."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import orjson
from aiohttp import web
from pydantic import Field

from bridge.simulator.alpaca.faults.absurd import UNKNOWN, Absurdity, distort
from bridge.simulator.alpaca.faults.answers import refusal
from bridge.simulator.alpaca.faults.base import RestFault
from bridge.simulator.alpaca.faults.messages import NOT_JSON
from bridge.simulator.alpaca.hooks import RestCall

Part = Literal["account", "positions", "orders", "activities"]
PARTS: tuple[Part, ...] = ("account", "positions", "orders", "activities")
_ROUTES: dict[str, Part] = {
    "GET /v2/account": "account",
    "GET /v2/positions": "positions",
    "GET /v2/orders": "orders",
    "GET /v2/account/activities": "activities",
}


def part_of(call: RestCall) -> Part | None:
    """Which part of an account's picture a request reads as a whole."""
    if call.route.startswith("GET /v2/account/activities"):
        return "activities"
    return _ROUTES.get(call.route)


def in_place_of(response: web.Response, body: bytes) -> web.Response:
    """The same answer with another body."""
    return web.Response(status=response.status, body=body, content_type="application/json")


def document_of(response: web.Response) -> Any:
    """The JSON of a good answer, None for any other."""
    body = response.body
    return orjson.loads(body) if response.status == 200 and isinstance(body, bytes) and body else None


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

    variant: Literal["unknown_enum", "unknown_fields"] | Absurdity = Field("unknown_enum", description="what is odd")
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
