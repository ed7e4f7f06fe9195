"""The OAuth pages over HTTP: the consent page for people and the token endpoint for applications.

Both ports serve them. It must not hold logic of its own: `consent` and `tokens` decide.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from bridge.simulator.alpaca.oauth.consent import consent_page, decide
from bridge.simulator.alpaca.oauth.tokens import token_endpoint
from bridge.simulator.alpaca.services import SERVICES
from core.errors import InvalidInput


async def page(request: web.Request) -> web.Response:
    try:
        shown = consent_page(request.app[SERVICES], request.query)
    except InvalidInput as problem:
        return _impossible(problem)
    return web.Response(text=shown, content_type="text/html")


async def decision(request: web.Request) -> web.Response:
    try:
        target = decide(request.app[SERVICES], await _form(request))
    except InvalidInput as problem:
        return _impossible(problem)
    return web.Response(status=303, headers={"Location": target})


async def token(request: web.Request) -> web.Response:
    status, answer = token_endpoint(request.app[SERVICES], await _form(request))
    return _json(answer, status)


def oauth_routes() -> list[web.RouteDef]:
    return [
        web.get("/oauth/authorize", page),
        web.post("/oauth/authorize", decision),
        web.post("/oauth/token", token),
    ]


async def _form(request: web.Request) -> dict[str, str]:
    """The fields of a form-encoded body; anything else has none."""
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}


def _impossible(problem: InvalidInput) -> web.Response:
    return _json({"error": "invalid_request", "error_description": str(problem), "field": problem.field}, 422)


def _json(document: object, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
