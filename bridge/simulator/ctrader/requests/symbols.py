"""What an account's broker server lists: assets, classes, categories, symbols and conversion chains.

Source: reference/ctrader.md §4.1, §4.2, §4.4. Symbol and asset ids are those of the account's server.
"""

from __future__ import annotations

from google.protobuf.message import Message

from bridge.simulator.ctrader.catalogue import ASSET_CLASSES, ListedSymbol
from bridge.simulator.ctrader.refusals import Refused
from bridge.simulator.ctrader.requests.account import leverage_id
from bridge.simulator.ctrader.requests.call import Call, Handlers
from core.paper_trader import CommissionKind, Listing, SwapKind, TradingMode
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

WEEK_S = 7 * 86_400
_COMMISSIONS = {
    CommissionKind.NONE: o.USD_PER_MILLION_USD,
    CommissionKind.PER_MILLION_USD: o.USD_PER_MILLION_USD,
    CommissionKind.PER_LOT_USD: o.USD_PER_LOT,
    CommissionKind.PERCENT_OF_VALUE: o.PERCENTAGE_OF_VALUE,
    CommissionKind.PER_LOT_QUOTE: o.QUOTE_CCY_PER_LOT,
}
_SWAPS = {
    SwapKind.NONE: o.PIPS,
    SwapKind.PIPS: o.PIPS,
    SwapKind.POINTS: o.POINTS,
    SwapKind.PERCENT: o.PERCENTAGE,
}
_TRADING_MODES = {
    TradingMode.ENABLED: o.ENABLED,
    TradingMode.CLOSE_ONLY: o.CLOSE_ONLY_MODE,
    TradingMode.DISABLED: o.DISABLED_WITHOUT_PENDINGS_EXECUTION,
}
_ASSET_DIGITS = {"JPY": 0}


def assets(call: Call[m.ProtoOAAssetListReq]) -> Message:
    return m.ProtoOAAssetListRes(
        ctidTraderAccountId=call.account.id,
        asset=[
            o.ProtoOAAsset(assetId=number, name=name, displayName=name, digits=_ASSET_DIGITS.get(name, 2))
            for name, number in call.account.server.assets.items()
        ],
    )


def asset_classes(call: Call[m.ProtoOAAssetClassListReq]) -> Message:
    return m.ProtoOAAssetClassListRes(
        ctidTraderAccountId=call.account.id,
        assetClass=[o.ProtoOAAssetClass(id=number, name=name) for number, name in ASSET_CLASSES.items()],
    )


def categories(call: Call[m.ProtoOASymbolCategoryListReq]) -> Message:
    return m.ProtoOASymbolCategoryListRes(
        ctidTraderAccountId=call.account.id,
        symbolCategory=[
            o.ProtoOASymbolCategory(id=number, assetClassId=number, name=name) for number, name in ASSET_CLASSES.items()
        ],
    )


def symbols_list(call: Call[m.ProtoOASymbolsListReq]) -> Message:
    server = call.account.server
    return m.ProtoOASymbolsListRes(
        ctidTraderAccountId=call.account.id,
        symbol=[light_symbol(symbol, server.assets) for symbol in server.symbols.values()],
    )


def symbol_by_id(call: Call[m.ProtoOASymbolByIdReq]) -> Message:
    server, engine = call.account.server, call.services.world.engine
    listed = server.symbols
    for symbol_id in call.request.symbolId:
        if symbol_id not in listed:
            raise symbol_not_found(symbol_id, call.account.id)
    return m.ProtoOASymbolByIdRes(
        ctidTraderAccountId=call.account.id,
        symbol=[
            full_symbol(listed[each], engine.listing(server.key, listed[each].instrument_id))
            for each in call.request.symbolId
        ],
    )


def symbols_for_conversion(call: Call[m.ProtoOASymbolsForConversionReq]) -> Message:
    server = call.account.server
    names = {number: name for name, number in server.assets.items()}
    first, last = names.get(call.request.firstAssetId), names.get(call.request.lastAssetId)
    chain = None
    if first is not None and last is not None:
        chain = call.services.world.engine.conversion_chain(server.key, first, last)
    if chain is None:
        raise Refused("ENTITY_NOT_FOUND", "No conversion chain between these assets", account_id=call.account.id)
    return m.ProtoOASymbolsForConversionRes(
        ctidTraderAccountId=call.account.id,
        symbol=[light_symbol(server.symbols[int(instrument_id)], server.assets) for instrument_id in chain],
    )


def symbol_not_found(symbol_id: int, account_id: int) -> Refused:
    return Refused("SYMBOL_NOT_FOUND", f"Symbol not found with id {symbol_id}", account_id=account_id)


def light_symbol(symbol: ListedSymbol, asset_ids: dict[str, int]) -> o.ProtoOALightSymbol:
    terms = symbol.terms
    return o.ProtoOALightSymbol(
        symbolId=symbol.id,
        symbolName=terms.name,
        enabled=symbol.enabled,
        baseAssetId=asset_ids[terms.base],
        quoteAssetId=asset_ids[terms.quote],
        symbolCategoryId=terms.asset_class,
        description=terms.description,
        sortingNumber=float(symbol.id),
    )


def full_symbol(symbol: ListedSymbol, listing: Listing) -> o.ProtoOASymbol:
    """The full entity with the terms now in force; open at all hours."""
    terms = symbol.terms
    commission, swap = listing.commission, listing.swap
    percent = commission.kind is CommissionKind.PERCENT_OF_VALUE
    return o.ProtoOASymbol(
        symbolId=symbol.id,
        digits=terms.digits,
        pipPosition=terms.pip_digits,
        enableShortSelling=listing.short_selling,
        guaranteedStopLoss=False,
        swapRollover3Days=o.WEDNESDAY,
        swapLong=float(swap.long),
        swapShort=float(swap.short),
        maxVolume=terms.maximum * 100,
        minVolume=terms.minimum * 100,
        stepVolume=terms.step * 100,
        schedule=[o.ProtoOAInterval(startSecond=0, endSecond=WEEK_S)],
        commission=int(commission.rate * 100),
        commissionType=_COMMISSIONS[commission.kind],
        slDistance=0,
        tpDistance=0,
        distanceSetIn=o.SYMBOL_DISTANCE_IN_POINTS,
        minCommission=0,
        scheduleTimeZone="UTC",
        tradingMode=_TRADING_MODES[listing.trading_mode],
        swapCalculationType=_SWAPS[swap.kind],
        lotSize=terms.lot * 100,
        preciseTradingCommissionRate=int(commission.rate.scaleb(5 if percent else 8)),
        preciseMinCommission=0,
        pnlConversionFeeRate=0,
        leverageId=leverage_id(terms.max_leverage),
        swapPeriod=24,
        swapTime=swap.minute_utc,
        chargeSwapAtWeekends=swap.at_weekends,
    )


HANDLERS: Handlers = {
    o.PROTO_OA_ASSET_LIST_REQ: assets,
    o.PROTO_OA_ASSET_CLASS_LIST_REQ: asset_classes,
    o.PROTO_OA_SYMBOL_CATEGORY_REQ: categories,
    o.PROTO_OA_SYMBOLS_LIST_REQ: symbols_list,
    o.PROTO_OA_SYMBOL_BY_ID_REQ: symbol_by_id,
    o.PROTO_OA_SYMBOLS_FOR_CONVERSION_REQ: symbols_for_conversion,
}
