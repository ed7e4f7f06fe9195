"""Admin routes of the simulated cTrader: `Actions` over HTTP for tests and people, and its OAuth pages.

How errors look is in `bridge/simulator/admin_http.py`. It must not hold logic of its own: every route is one call of
`Actions`.
"""

from __future__ import annotations

from aiohttp import web

from bridge.simulator.admin_http import MAX_BODY_BYTES, Stop, problems, read_body, send_json, serve
from bridge.simulator.admin_routes import fault_and_counter_routes
from bridge.simulator.ctrader import schemas
from bridge.simulator.ctrader.actions import Actions, Refusal
from bridge.simulator.ctrader.consent import consent_page, decide
from bridge.simulator.ctrader.oauth import token_endpoint
from core.paper_trader import KEEP, Level, OrderChanges

ACTIONS: web.AppKey[Actions] = web.AppKey("actions", Actions)


async def start_admin(actions: Actions, host: str, port: int) -> tuple[Stop, int]:
    """Serve the admin routes; returns what stops them and the port."""
    return await serve(make_app(actions), host, port)


def make_app(actions: Actions) -> web.Application:
    """The application with every route."""
    app = web.Application(middlewares=[problems(Refusal)], client_max_size=MAX_BODY_BYTES)
    app[ACTIONS] = actions
    app.add_routes(
        [web.get("/sim/accounts", list_accounts), *account_routes(), *broker_routes("/sim"), *oauth_routes()]
    )
    return app


def account_routes() -> list[web.RouteDef]:
    """Routes of one account, named by its number."""
    account = "/sim/accounts/{id:[0-9]+}"
    return [
        web.get("/sim/truth/{id:[0-9]+}", truth),
        web.post(f"{account}/deposit", deposit),
        web.post(f"{account}/bonus", bonus),
        web.post(f"{account}/order", order),
        web.post(f"{account}/close", close),
        web.post(f"{account}/cancel", cancel),
        web.post(f"{account}/amend", amend),
        web.post(f"{account}/protect", protect),
        web.post(f"{account}/terms", terms),
        web.post(f"{account}/markup", markup),
    ]


def broker_routes(prefix: str) -> list[web.RouteDef]:
    """Routes of the whole broker, under a prefix such as `/sim`."""
    return [
        web.get(f"{prefix}/prices", prices),
        web.post(f"{prefix}/prices", set_prices),
        web.post(f"{prefix}/symbols", change_symbol),
        *fault_and_counter_routes(prefix, ACTIONS),
        web.post(f"{prefix}/oauth/codes", mint_code),
        web.post(f"{prefix}/users/{{user:[0-9]+}}/revoke", revoke),
        web.post(f"{prefix}/users/{{user:[0-9]+}}/expire", expire),
    ]


def oauth_routes() -> list[web.RouteDef]:
    """The consent page and the token endpoint."""
    return [
        web.get("/apps/auth", oauth_page),
        web.post("/apps/auth", oauth_decision),
        web.get("/apps/token", oauth_token),
        web.post("/apps/token", oauth_token),
    ]


def _account(request: web.Request) -> int:
    return int(request.match_info["id"])


async def list_accounts(request: web.Request) -> web.Response:
    return send_json({"accounts": request.app[ACTIONS].accounts()})


async def truth(request: web.Request) -> web.Response:
    return send_json(request.app[ACTIONS].truth(_account(request)))


async def deposit(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.DepositBody)
    return send_json(request.app[ACTIONS].deposit(_account(request), body.amount, body.note))


async def bonus(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.DepositBody)
    return send_json(request.app[ACTIONS].bonus(_account(request), body.amount, body.note))


async def order(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.OrderBody)
    return send_json(request.app[ACTIONS].order(_account(request), **body.model_dump()))


async def close(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CloseBody)
    actions, account_id = request.app[ACTIONS], _account(request)
    if body.position_id is None:
        return send_json({"closed": actions.close_all(account_id, symbol=body.symbol)})
    return send_json(actions.close_position(account_id, body.position_id, body.units))


async def cancel(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CancelBody)
    return send_json(request.app[ACTIONS].cancel(_account(request), body.order_id))


async def amend(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.AmendBody)
    given = body.model_dump(exclude={"order_id"}, exclude_none=True)
    changes = OrderChanges(**{name: given.get(name, KEEP) for name in type(body).model_fields if name != "order_id"})
    return send_json(request.app[ACTIONS].amend(_account(request), body.order_id, changes))


async def protect(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.ProtectBody)
    answer = request.app[ACTIONS].protect(
        _account(request),
        body.position_id,
        stop_loss=body.stop_loss,
        take_profit=body.take_profit,
        trailing=body.trailing,
    )
    return send_json(answer)


async def terms(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.TermsBody)
    actions = request.app[ACTIONS]
    actions.change_terms(_account(request), leverage=body.leverage, access=body.access, swap_free=body.swap_free)
    return send_json(actions.truth(_account(request)))


async def markup(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.MarkupBody)
    actions = request.app[ACTIONS]
    actions.mark_up(_account(request), body.points, body.group)
    return send_json(actions.truth(_account(request)))


async def prices(request: web.Request) -> web.Response:
    return send_json(request.app[ACTIONS].quotes())


async def set_prices(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.PricesBody)
    actions = request.app[ACTIONS]
    if body.freeze is not None:
        (actions.freeze if body.freeze else actions.resume)()
    quotes = dict(body.quotes)
    if body.symbol is not None:
        quotes[body.symbol] = schemas.QuoteBody(bid=body.bid, ask=body.ask)
    for symbol, quote in quotes.items():
        actions.quote(
            symbol,
            bid=quote.bid,
            ask=quote.ask,
            bids=None if quote.bids is None else [Level(*level) for level in quote.bids],
            asks=None if quote.asks is None else [Level(*level) for level in quote.asks],
            server=body.server,
        )
    return send_json(actions.quotes())


async def change_symbol(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.SymbolBody)
    actions = request.app[ACTIONS]
    actions.change_symbol(body.symbol, trading_mode=body.trading_mode, is_open=body.is_open, server=body.server)
    return send_json({})


async def mint_code(request: web.Request) -> web.Response:
    body = await read_body(request, schemas.CodeBody)
    return send_json({"code": request.app[ACTIONS].mint_code(body.user, trade=body.scope == "trading")})


async def revoke(request: web.Request) -> web.Response:
    request.app[ACTIONS].revoke(int(request.match_info["user"]))
    return send_json({})


async def expire(request: web.Request) -> web.Response:
    request.app[ACTIONS].expire(int(request.match_info["user"]))
    return send_json({})


async def oauth_page(request: web.Request) -> web.Response:
    page = consent_page(request.app[ACTIONS].services, request.query)
    return web.Response(text=page, content_type="text/html")


async def oauth_decision(request: web.Request) -> web.Response:
    parameters = {name: str(value) for name, value in (await request.post()).items()}
    target = decide(request.app[ACTIONS].services, parameters)
    return web.Response(status=303, headers={"Location": target})


async def oauth_token(request: web.Request) -> web.Response:
    parameters = dict(request.query)
    if request.method == "POST":
        parameters |= {name: str(value) for name, value in (await request.post()).items()}
    status, answer = token_endpoint(request.app[ACTIONS].services, parameters)
    return send_json(answer, status)
