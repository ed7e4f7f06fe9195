"""Application and account sessions: auth, account list, token refresh, logout, version.

Source: reference/ctrader.md §2.2 and §2.3. `ALREADY_LOGGED_IN` is answered without a look at the token, as the real
server does; so it proves nothing about the caller.
"""

from __future__ import annotations

from google.protobuf.message import Message

from bridge.simulator.ctrader.connection import Authorisation
from bridge.simulator.ctrader.grants import end_sessions, renew
from bridge.simulator.ctrader.refusals import Refused
from bridge.simulator.ctrader.requests.call import Call, Handlers
from bridge.simulator.ctrader.tokens import Grant
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

VERSION = "91"
TOKEN_INVALID = "Access token expired"


def application_auth(call: Call[m.ProtoOAApplicationAuthReq]) -> Message:
    settings = call.services.settings
    if (call.request.clientId, call.request.clientSecret) != (settings.client_id, settings.client_secret):
        call.services.counters.app_auth_failures += 1
        raise Refused("CH_CLIENT_AUTH_FAILURE", "clientId or clientSecret is incorrect", close=True)
    services = call.services
    authorised = sum(each.app_authorised for each in services.hub.connections.values())
    limit = settings.connection_limit
    if (limit is not None and authorised >= limit) or services.faults.exceeds_limit(
        authorised, services.clock.monotonic()
    ):
        raise Refused("CONNECTIONS_LIMIT_EXCEEDED", "Connections limit exceeded", close=True)
    call.connection.app_authorised = True
    return m.ProtoOAApplicationAuthRes()


def version(call: Call[m.ProtoOAVersionReq]) -> Message:
    return m.ProtoOAVersionRes(version=VERSION)


def account_list(call: Call[m.ProtoOAGetAccountListByAccessTokenReq]) -> Message:
    grant = _grant(call, call.request.accessToken)
    listed = []
    for account in call.services.world.of_user.get(grant.user, []):
        cash = call.services.desk.cash.get(account.id)
        listed.append(
            o.ProtoOACtidTraderAccount(
                ctidTraderAccountId=account.id,
                isLive=account.live,
                traderLogin=account.login,
                lastClosingDealTimestamp=call.services.desk.last_close_ms.get(account.id),
                lastBalanceUpdateTimestamp=cash[-1].changeBalanceTimestamp if cash else account.registered_ms,
                brokerTitleShort=account.server.rules.title,
            )
        )
    return m.ProtoOAGetAccountListByAccessTokenRes(
        accessToken=call.request.accessToken,
        permissionScope=o.SCOPE_TRADE if grant.trade else o.SCOPE_VIEW,
        ctidTraderAccount=listed,
    )


def profile(call: Call[m.ProtoOAGetCtidProfileByTokenReq]) -> Message:
    grant = _grant(call, call.request.accessToken)
    return m.ProtoOAGetCtidProfileByTokenRes(profile=o.ProtoOACtidProfile(userId=grant.user))


def account_auth(call: Call[m.ProtoOAAccountAuthReq]) -> Message:
    services, connection = call.services, call.connection
    account_id = call.request.ctidTraderAccountId
    counters = services.counters
    account = services.world.accounts.get(account_id)
    if account is not None:
        counters.auth_attempts_by_account[account_id] += 1
        counters.auth_attempts_by_user[account.user] += 1
        counters.auth_order.append((call.now_ms, account_id, connection.number))
    if account_id in connection.authorisations:
        counters.double_logins += 1
        raise Refused(
            "ALREADY_LOGGED_IN", "Trading account is already authorized in this channel", account_id=account_id
        )
    grant = _grant(call, call.request.accessToken)
    if account is None or account.user != grant.user:
        counters.account_auth_failures += 1
        raise Refused("CH_CTID_TRADER_ACCOUNT_NOT_FOUND", "Trading account is not found", account_id=account_id)
    if account.live != (connection.environment == "live"):
        counters.account_auth_failures += 1
        raise Refused("CANT_ROUTE_REQUEST", "Cannot route request", account_id=account_id)
    if services.hub.listeners(account_id):
        counters.parallel_logins += 1
    services.hub.authorise(connection, Authorisation(account_id, grant.trade))
    return m.ProtoOAAccountAuthRes(ctidTraderAccountId=account_id)


def account_logout(call: Call[m.ProtoOAAccountLogoutReq]) -> None:
    account_id = call.request.ctidTraderAccountId
    call.reply(m.ProtoOAAccountLogoutRes(ctidTraderAccountId=account_id))
    call.services.hub.leave(call.connection, account_id)
    call.services.hub.disconnect_notice(call.connection, account_id)


def refresh_token(call: Call[m.ProtoOARefreshTokenReq]) -> None:
    grant = renew(call.services, call.request.refreshToken)
    if grant is None:
        raise Refused("ACCESS_DENIED", "Access denied")
    call.reply(
        m.ProtoOARefreshTokenRes(
            accessToken=grant.access_token,
            tokenType="bearer",
            expiresIn=call.services.tokens.life_s,
            refreshToken=grant.refresh_token,
        )
    )
    end_sessions(call.services, grant.user)


def _grant(call: Call[Message], access_token: str) -> Grant:
    grant = call.services.tokens.grant_of_access(access_token, call.now_ms)
    if grant is None:
        call.services.counters.account_auth_failures += 1
        raise Refused("CH_ACCESS_TOKEN_INVALID", TOKEN_INVALID, account_id=call.account_id)
    return grant


HANDLERS: Handlers = {
    o.PROTO_OA_APPLICATION_AUTH_REQ: application_auth,
    o.PROTO_OA_VERSION_REQ: version,
    o.PROTO_OA_GET_ACCOUNTS_BY_ACCESS_TOKEN_REQ: account_list,
    o.PROTO_OA_GET_CTID_PROFILE_BY_TOKEN_REQ: profile,
    o.PROTO_OA_ACCOUNT_AUTH_REQ: account_auth,
    o.PROTO_OA_ACCOUNT_LOGOUT_REQ: account_logout,
    o.PROTO_OA_REFRESH_TOKEN_REQ: refresh_token,
}
