"""Price subscriptions: spots, live trendbars, depth.

Source: reference/ctrader.md §4.4. A spot subscription is answered, then one technical event with the latest price
follows, then updates. Live bars need the spots of their symbol. One bad id spoils the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from bridge.simulator.ctrader.depth import full_depth
from bridge.simulator.ctrader.refusals import Refused
from bridge.simulator.ctrader.requests.call import Call, Handlers
from bridge.simulator.ctrader.requests.symbols import symbol_not_found
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o


def subscribe_spots(call: Call[m.ProtoOASubscribeSpotsReq]) -> None:
    account, authorisation = call.account, call.authorisation
    wanted = _listed(call, call.request.symbolId)
    for symbol_id in wanted:
        if symbol_id in authorisation.spots:
            raise Refused("ALREADY_SUBSCRIBED", f"Already subscribed to symbol {symbol_id}", account_id=account.id)
    call.reply(m.ProtoOASubscribeSpotsRes(ctidTraderAccountId=account.id))
    for symbol_id in wanted:
        authorisation.spots[symbol_id] = call.request.subscribeToSpotTimestamp
        call.services.spots.join(call.connection, authorisation, account.server.key, symbol_id)
        tick = call.services.prices.latest(account.server.key, symbol_id)
        if tick is not None:
            call.push(call.services.spots.message(account.id, tick, authorisation))


def unsubscribe_spots(call: Call[m.ProtoOAUnsubscribeSpotsReq]) -> Message:
    authorisation = call.authorisation
    for symbol_id in _listed(call, call.request.symbolId):
        if symbol_id not in authorisation.spots:
            raise Refused(
                "NOT_SUBSCRIBED_TO_SPOTS", f"Not subscribed to symbol {symbol_id}", account_id=call.account.id
            )
    for symbol_id in call.request.symbolId:
        call.services.spots.drop(call.connection, call.account.id, symbol_id)
        authorisation.spots.pop(symbol_id, None)
        authorisation.bars = {bar for bar in authorisation.bars if bar[0] != symbol_id}
    return m.ProtoOAUnsubscribeSpotsRes(ctidTraderAccountId=call.account.id)


def subscribe_bars(call: Call[m.ProtoOASubscribeLiveTrendbarReq]) -> None:
    account, authorisation = call.account, call.authorisation
    symbol_id = call.request.symbolId
    if symbol_id not in authorisation.spots:
        raise Refused(
            "NOT_SUBSCRIBED_TO_SPOTS", f"Not subscribed to spots of symbol {symbol_id}", account_id=account.id
        )
    bar = (symbol_id, int(call.request.period))
    if bar in authorisation.bars:
        raise Refused("ALREADY_SUBSCRIBED", "Already subscribed to this trendbar", account_id=account.id)
    authorisation.bars.add(bar)
    call.services.spots.join(call.connection, authorisation, account.server.key, symbol_id)
    call.reply(m.ProtoOASubscribeLiveTrendbarRes(ctidTraderAccountId=account.id))
    tick = call.services.prices.latest(account.server.key, symbol_id)
    if tick is not None:
        call.push(call.services.spots.message(account.id, tick, authorisation))


def unsubscribe_bars(call: Call[m.ProtoOAUnsubscribeLiveTrendbarReq]) -> Message:
    authorisation = call.authorisation
    symbol_id = call.request.symbolId
    authorisation.bars.discard((symbol_id, int(call.request.period)))
    if symbol_id in authorisation.spots:
        call.services.spots.join(call.connection, authorisation, call.account.server.key, symbol_id)
    return m.ProtoOAUnsubscribeLiveTrendbarRes(ctidTraderAccountId=call.account.id)


def subscribe_depth(call: Call[m.ProtoOASubscribeDepthQuotesReq]) -> None:
    account, authorisation = call.account, call.authorisation
    wanted = _listed(call, call.request.symbolId)
    if any(symbol_id in authorisation.depth for symbol_id in wanted):
        raise Refused("ALREADY_SUBSCRIBED", "Already subscribed to depth quotes", account_id=account.id)
    call.reply(m.ProtoOASubscribeDepthQuotesRes(ctidTraderAccountId=account.id))
    for symbol_id in wanted:
        authorisation.depth.add(symbol_id)
        call.services.depth.join(call.connection, account.id, account.server.key, symbol_id)
        tick = call.services.prices.latest(account.server.key, symbol_id)
        if tick is not None:
            call.push(full_depth(account.id, tick))


def unsubscribe_depth(call: Call[m.ProtoOAUnsubscribeDepthQuotesReq]) -> Message:
    for symbol_id in _listed(call, call.request.symbolId):
        call.authorisation.depth.discard(symbol_id)
        call.services.depth.drop(call.connection, call.account.id, symbol_id)
    return m.ProtoOAUnsubscribeDepthQuotesRes(ctidTraderAccountId=call.account.id)


def _listed(call: Call[Message], symbol_ids: Iterable[int]) -> list[int]:
    """The distinct ids, all of them listed by the account's server. Raises Refused."""
    wanted = list(dict.fromkeys(symbol_ids))
    for symbol_id in wanted:
        if symbol_id not in call.account.server.symbols:
            raise symbol_not_found(symbol_id, call.account.id)
    return wanted


HANDLERS: Handlers = {
    o.PROTO_OA_SUBSCRIBE_SPOTS_REQ: subscribe_spots,
    o.PROTO_OA_UNSUBSCRIBE_SPOTS_REQ: unsubscribe_spots,
    o.PROTO_OA_SUBSCRIBE_LIVE_TRENDBAR_REQ: subscribe_bars,
    o.PROTO_OA_UNSUBSCRIBE_LIVE_TRENDBAR_REQ: unsubscribe_bars,
    o.PROTO_OA_SUBSCRIBE_DEPTH_QUOTES_REQ: subscribe_depth,
    o.PROTO_OA_UNSUBSCRIBE_DEPTH_QUOTES_REQ: unsubscribe_depth,
}
