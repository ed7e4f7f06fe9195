"""Admin routes of the simulated Alpaca: its `Actions` over HTTP. `bridge/simulator/admin.py` serves them.

It must not hold logic of its own: every route is one call of `Actions`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bridge.simulator.admin_http import read_body, send_json
from bridge.simulator.admin_routes import fault_and_counter_routes
from bridge.simulator.alpaca import schemas
from bridge.simulator.alpaca.actions import Actions

ACTIONS: web.AppKey[Actions] = web.AppKey("alpaca actions", Actions)
ACCOUNT_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def account_routes() -> list[web.RouteDef]:
    """Routes of one account, named by its UUID."""
    account = f"/sim/accounts/{{id:{ACCOUNT_ID}}}"
    return [
        web.get(f"/sim/truth/{{id:{ACCOUNT_ID}}}", truth),
        web.post(f"{account}/deposit", deposit),
        web.post(f"{account}/pay", pay),
        web.post(f"{account}/order", order),
        web.post(f"{account}/replace", replace),
        web.post(f"{account}/cancel", cancel),
        web.post(f"{account}/close", close),
    ]


def broker_routes(prefix: str) -> list[web.RouteDef]:
    """Routes of the whole broker, under a prefix such as `/sim/alpaca`."""
    return [
        web.get(f"{prefix}/accounts", list_accounts),
        web.get(f"{prefix}/prices", prices),
        web.post(f"{prefix}/prices", set_prices),
        web.post(f"{prefix}/market", set_market),
        *fault_and_counter_routes(prefix, ACTIONS),
        web.post(f"{prefix}/oauth/codes", mint_code),
        web.post(f"{prefix}/users/{{user:[0-9]{{1,9}}}}/revoke", revoke),
        web.post(f"{prefix}/users/{{user:[0-9]{{1,9}}}}/restore-keys", restore_keys),
    ]


def _account(request: web.Request) -> str:
    return request.match_info["id"]


def _number(request: web.Request, name: str) -> int:
    return int(request.match_info[name])


async def list_accounts(request: web.Request) -> web.Response:
    return send_json({"accounts": request.app[ACTIONS].accounts()})


async def truth(request: web.Request) -> web.Response:
    return send_json(request.app[ACTIONS].truth(_account(request)))


async def deposit(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.DepositBody)
    return send_json(request.app[ACTIONS].deposit(_account(request), body.amount))


async def pay(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.PayBody)
    return send_json(request.app[ACTIONS].pay(_account(request), body.type, body.amount, body.symbol))


async def order(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.OrderBody)
    return send_json(request.app[ACTIONS].order(_account(request), **body.model_dump()))


async def replace(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.ReplaceBody)
    changes: dict[str, Any] = body.model_dump(exclude={"order_id", "units"})
    return send_json(request.app[ACTIONS].replace(_account(request), body.order_id, qty=body.units, **changes))


async def cancel(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CancelBody)
    actions, account_id = request.app[ACTIONS], _account(request)
    if body.order_id is None:
        return send_json({"canceled": actions.cancel_all(account_id)})
    return send_json(actions.cancel(account_id, body.order_id))


async def close(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CloseBody)
    actions, account_id = request.app[ACTIONS], _account(request)
    which = body.symbol or body.position_id
    if which is None:
        return send_json({"closed": actions.close_all(account_id, cancel_orders=body.cancel_orders)})
    return send_json(actions.close(account_id, which, units=body.units, percentage=body.percentage))


async def prices(request: web.Request) -> web.Response:
    return send_json(request.app[ACTIONS].quotes())


async def set_prices(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.PricesBody)
    actions = request.app[ACTIONS]
    if body.freeze is not None:
        (actions.freeze if body.freeze else actions.resume)()
    quotes = dict(body.quotes)
    if body.symbol is not None:
        quotes[body.symbol] = body
    for symbol, quote in quotes.items():
        actions.quote(symbol, **quote.model_dump(include=set(schemas.QuoteBody.model_fields)))
    return send_json(actions.quotes())


async def set_market(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.MarketBody)
    request.app[ACTIONS].set_market(body.state)
    return send_json({"market": body.state})


async def mint_code(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CodeBody)
    code = request.app[ACTIONS].mint_code(body.user, environment=body.env, scope=body.scope)
    return send_json({"code": code})


async def revoke(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.RevokeBody)
    request.app[ACTIONS].revoke(_number(request, "user"), body.what)
    return send_json({})


async def restore_keys(request: web.Request) -> web.Response:
    return send_json({"restored": request.app[ACTIONS].restore_keys(_number(request, "user"))})
