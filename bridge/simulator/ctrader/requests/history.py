"""The past: deals, orders, cash flow, ticks and bars; all on the historical budget.

Source: reference/ctrader.md §4.1 (tick deltas, bars), §5 (windows), §4.3 (history lags the closing event). Lists run
forward in time and say `hasMore` when a page is full.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TypeVar

from google.protobuf.message import Message

from bridge.simulator.ctrader import bars, translate
from bridge.simulator.ctrader.refusals import Refused
from bridge.simulator.ctrader.requests.call import Call, Handlers
from bridge.simulator.ctrader.requests.symbols import symbol_not_found
from core.paper_trader import Deal, Order
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

CASH_FLOW_WINDOW_MS = 7 * 86_400_000
TICKS_PAGE = 500
FOREVER_MS = 1 << 62

T = TypeVar("T")


def deal_list(call: Call[m.ProtoOADealListReq]) -> Message:
    rows = min(call.request.maxRows or _rows(call), _rows(call))
    found, more = _page(_deals(call, *_window(call)), rows)
    return m.ProtoOADealListRes(
        ctidTraderAccountId=call.account.id,
        deal=[translate.deal(call.account, deal) for deal in found],
        hasMore=more,
    )


def deals_of_position(call: Call[m.ProtoOADealListByPositionIdReq]) -> Message:
    deals = (deal for deal in _deals(call, *_window(call)) if deal.position_id == call.request.positionId)
    found, more = _page(deals, _rows(call))
    return m.ProtoOADealListByPositionIdRes(
        ctidTraderAccountId=call.account.id,
        deal=[translate.deal(call.account, deal) for deal in found],
        hasMore=more,
    )


def order_list(call: Call[m.ProtoOAOrderListReq]) -> Message:
    start, end = _window(call)
    orders = (order for order in _finished(call) if start <= order.updated_at_ms <= end)
    found, more = _page(orders, _rows(call))
    return m.ProtoOAOrderListRes(
        ctidTraderAccountId=call.account.id, order=[translate.order(order) for order in found], hasMore=more
    )


def orders_of_position(call: Call[m.ProtoOAOrderListByPositionIdReq]) -> Message:
    start, end = _window(call)
    orders = (
        order
        for order in _finished(call)
        if order.position_id == call.request.positionId and start <= order.updated_at_ms <= end
    )
    found, more = _page(orders, _rows(call))
    return m.ProtoOAOrderListByPositionIdRes(
        ctidTraderAccountId=call.account.id, order=[translate.order(order) for order in found], hasMore=more
    )


def order_details(call: Call[m.ProtoOAOrderDetailsReq]) -> Message:
    account = call.account
    order = call.services.world.engine.find_order(account.key, call.request.orderId)
    if order is None:
        raise Refused("ORDER_NOT_FOUND", f"Order not found with id {call.request.orderId}", account_id=account.id)
    deals = [deal for deal in _deals(call, 0, FOREVER_MS) if deal.order_id == order.id]
    return m.ProtoOAOrderDetailsRes(
        ctidTraderAccountId=account.id,
        order=translate.order(order),
        deal=[translate.deal(account, deal) for deal in deals],
    )


def deal_offsets(call: Call[m.ProtoOADealOffsetListReq]) -> Message:
    """Which deals closed this one, and which ones this one closed; opening deals are used up oldest first."""
    deals = {deal.id: deal for deal in _deals(call, 0, FOREVER_MS)}
    asked = deals.get(call.request.dealId)
    if asked is None:
        raise Refused("ENTITY_NOT_FOUND", f"Deal not found with id {call.request.dealId}")
    answer = m.ProtoOADealOffsetListRes(ctidTraderAccountId=call.account.id)
    for opening, closing, units in _offsets(deal for deal in deals.values() if deal.position_id == asked.position_id):
        if opening is asked:
            answer.offsetBy.append(_offset(closing, units))
        elif closing is asked:
            answer.offsetting.append(_offset(opening, units))
    return answer


def cash_flow(call: Call[m.ProtoOACashFlowHistoryListReq]) -> Message:
    start, end = call.request.fromTimestamp, call.request.toTimestamp
    if not 0 <= end - start <= CASH_FLOW_WINDOW_MS:
        raise Refused("INCORRECT_BOUNDARIES", "The period must be within 1 week", account_id=call.account.id)
    entries = call.services.desk.cash.get(call.account.id, ())
    return m.ProtoOACashFlowHistoryListRes(
        ctidTraderAccountId=call.account.id,
        depositWithdraw=[entry for entry in entries if start <= entry.changeBalanceTimestamp <= end],
    )


def trendbars(call: Call[m.ProtoOAGetTrendbarsReq]) -> Message:
    symbol = call.account.server.symbols.get(call.request.symbolId)
    if symbol is None:
        raise symbol_not_found(call.request.symbolId, call.account.id)
    start, end = _window(call)
    period = call.request.period
    end = min(end, call.now_ms)
    if start > end or end - start > bars.WINDOW_MS[period]:
        raise Refused("INCORRECT_BOUNDARIES", "Incorrect period boundaries", account_id=call.account.id)
    prices = call.services.prices
    found = prices.bars.history(call.account.server.key, symbol, period, start, end)
    count = call.request.count or bars.MOST_BARS
    answer = m.ProtoOAGetTrendbarsRes(
        ctidTraderAccountId=call.account.id,
        period=period,
        timestamp=end,  # deprecated, and required by older clients (§3)
        trendbar=found[-count:],
        symbolId=symbol.id,
        hasMore=len(found) > count,
    )
    return answer


def tick_data(call: Call[m.ProtoOAGetTickDataReq]) -> Message:
    """Newest first: the first entry is absolute, each following one the difference to the one before."""
    symbol = call.account.server.symbols.get(call.request.symbolId)
    if symbol is None:
        raise symbol_not_found(call.request.symbolId, call.account.id)
    start, end = _window(call)
    ticks = call.services.prices.ticks.get((call.account.server.key, symbol.id), ())
    values = [
        (tick.at_ms, tick.bid if call.request.type == o.BID else tick.ask)
        for tick in reversed(ticks)
        if start <= tick.at_ms <= end
    ]
    page = values[:TICKS_PAGE]
    answer = m.ProtoOAGetTickDataRes(ctidTraderAccountId=call.account.id, hasMore=len(values) > len(page))
    before_ms = before = 0
    for at_ms, value in page:
        answer.tickData.add(timestamp=at_ms - before_ms, tick=(value or 0) - before)
        before_ms, before = at_ms, value or 0
    return answer


def _window(call: Call[Message]) -> tuple[int, int]:
    """The asked period, open where it is left out. Raises Refused when it ends before it begins."""
    start = getattr(call.request, "fromTimestamp", 0)
    end = getattr(call.request, "toTimestamp", 0) or FOREVER_MS
    if end < start:
        raise Refused("INCORRECT_BOUNDARIES", "Incorrect period boundaries", account_id=call.account_id)
    return start, end


def _deals(call: Call[Message], start: int, end: int) -> list[Deal]:
    """Deals in time order that history already knows of."""
    known_until = call.now_ms - int(call.services.settings.history_lag_s * 1000)
    deals = call.services.world.engine.deals(call.account.key)
    return [deal for deal in deals if start <= deal.executed_at_ms <= min(end, known_until)]


def _finished(call: Call[Message]) -> list[Order]:
    known_until = call.now_ms - int(call.services.settings.history_lag_s * 1000)
    orders = call.services.world.engine.finished_orders(call.account.key)
    return [order for order in orders if order.updated_at_ms <= known_until]


def _rows(call: Call[Message]) -> int:
    """Rows of a page."""
    return call.services.faults.page_rows(call.services.settings.deals_page)


def _page(items: Iterable[T], rows: int) -> tuple[list[T], bool]:
    found = list(items)
    return found[:rows], len(found) > rows


def _offsets(deals: Iterable[Deal]) -> list[tuple[Deal, Deal, Decimal]]:
    """(opening deal, closing deal, units) of one position."""
    open_units: list[tuple[Deal, Decimal]] = []
    pairs = []
    for deal in deals:
        left = deal.filled_units if deal.close is None else deal.close.closed_units
        if deal.close is None:
            open_units.append((deal, left))
            continue
        while left > 0 and open_units:
            opening, available = open_units[0]
            taken = min(left, available)
            pairs.append((opening, deal, taken))
            left -= taken
            open_units[0] = (opening, available - taken)
            if taken == available:
                open_units.pop(0)
    return pairs


def _offset(deal: Deal, units: Decimal) -> o.ProtoOADealOffset:
    return o.ProtoOADealOffset(
        dealId=deal.id,
        volume=translate.volume(units),
        executionTimestamp=deal.executed_at_ms,
        executionPrice=float(deal.price),
    )


HANDLERS: Handlers = {
    o.PROTO_OA_DEAL_LIST_REQ: deal_list,
    o.PROTO_OA_DEAL_LIST_BY_POSITION_ID_REQ: deals_of_position,
    o.PROTO_OA_ORDER_LIST_REQ: order_list,
    o.PROTO_OA_ORDER_LIST_BY_POSITION_ID_REQ: orders_of_position,
    o.PROTO_OA_ORDER_DETAILS_REQ: order_details,
    o.PROTO_OA_DEAL_OFFSET_LIST_REQ: deal_offsets,
    o.PROTO_OA_CASH_FLOW_HISTORY_LIST_REQ: cash_flow,
    o.PROTO_OA_GET_TRENDBARS_REQ: trendbars,
    o.PROTO_OA_GET_TICKDATA_REQ: tick_data,
}
# Order details are a look at one order, not at history.
HISTORICAL = frozenset(HANDLERS) - {o.PROTO_OA_ORDER_DETAILS_REQ}
