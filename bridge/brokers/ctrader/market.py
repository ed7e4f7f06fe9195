"""What the accounts of one broker server share: assets, symbols, symbol details of what is held, conversion chains.

Read once per (broker server, environment), by whichever account needs it first, and only what is held: details come in
batches, one request for all who wait. Everything goes into one `Catalogue`, which all those mirrors point to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader import codec, faults
from bridge.brokers.ctrader.normalize import units
from bridge.brokers.flight import Flight
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.instruments import Catalogue, Chain, Hop, Instrument
from protos.ctrader import messages_pb2, model_pb2

M = TypeVar("M", bound=Message)

MAX_DIGITS = 12
MAX_HOPS = 8


class Asker(Protocol):
    """An authorised account through which market data can be read."""

    number: int

    async def ask_market(self, request: Message, reply: type[M]) -> M:
        """Send a request about this account's broker server. Raises BrokerFault."""


class Market:
    """Reference data of one broker server and environment. Symbol ids mean nothing outside of it."""

    def __init__(self, tasks: Tasks) -> None:
        self.catalogue = Catalogue()
        self._tasks = tasks
        self._assets: dict[int, str] = {}
        self._asset_ids: dict[str, int] = {}
        self._symbols: dict[int, tuple[str, str, str]] = {}  # id -> name, base asset, quote asset
        self._digits: dict[int, int] = {}
        self._unknown: set[int] = set()  # symbols that the broker does not describe
        self._wanted: set[int] = set()
        self._loading_assets: Flight[None] = Flight()
        self._loading_symbols: Flight[None] = Flight()
        self._loading_details: Flight[None] = Flight()
        self._loading_chains: dict[tuple[str, str], Flight[None]] = {}

    def price_digits(self, symbol_id: int) -> int | None:
        """Decimals of a symbol's prices; None while its details are not known."""
        return self._digits.get(symbol_id)

    def asset(self, asset_id: int) -> str | None:
        """The name of an asset, such as "EUR"."""
        return self._assets.get(asset_id)

    async def currency(self, asset_id: int, asker: Asker) -> str | None:
        """The name of a deposit asset; reads the list when it does not hold it."""
        if asset_id not in self._assets:
            await self._loading_assets.join(self._tasks, lambda: self._load_assets(asker), "assets")
        return self._assets.get(asset_id)

    async def describe(self, symbol_ids: Iterable[int], asker: Asker) -> None:
        """Make sure that the catalogue holds these symbols. Unknown ones stay out of it."""
        missing = self._missing(symbol_ids)
        while missing:
            self._wanted |= missing
            await self._loading_details.join(self._tasks, lambda: self._load_details(asker), "symbol-details")
            missing = self._missing(missing)

    async def connect(self, mirror: AccountMirror, asker: Asker) -> None:
        """Make sure that the conversion chains of everything the mirror holds are known."""
        if mirror.currency is None:
            return
        for position in list(mirror.positions.values()):
            instrument = self.catalogue.instruments.get(position.instrument_id)
            if instrument is not None and self.catalogue.chain(instrument.quote_asset, mirror.currency) is None:
                pair = (instrument.quote_asset, mirror.currency)
                flight = self._loading_chains.setdefault(pair, Flight())
                try:
                    await flight.join(self._tasks, lambda pair=pair: self._load_chain(pair, asker), "chain")  # type: ignore[misc]  # a default binds the loop variable
                finally:
                    self._loading_chains.pop(pair, None)

    async def reread(self, symbol_ids: Iterable[int], asker: Asker) -> None:
        """The broker changed these symbols: read those again that anybody holds, forget the rest."""
        changed = {symbol_id for symbol_id in symbol_ids if symbol_id in self._digits}
        self._unknown.difference_update(symbol_ids)
        if changed:
            self._store_details(await self._ask_details(changed, asker))

    def _missing(self, symbol_ids: Iterable[int]) -> set[int]:
        return {one for one in symbol_ids if one not in self._digits and one not in self._unknown}

    async def _load_assets(self, asker: Asker) -> None:
        request = messages_pb2.ProtoOAAssetListReq(ctidTraderAccountId=asker.number)
        answer = await asker.ask_market(request, messages_pb2.ProtoOAAssetListRes)
        self._assets = {asset.assetId: codec.text(asset.name) for asset in answer.asset}
        self._asset_ids = {name: asset_id for asset_id, name in self._assets.items()}

    async def _load_symbols(self, asker: Asker) -> None:
        if not self._assets:
            await self._loading_assets.join(self._tasks, lambda: self._load_assets(asker), "assets")
        request = messages_pb2.ProtoOASymbolsListReq(ctidTraderAccountId=asker.number)
        answer = await asker.ask_market(request, messages_pb2.ProtoOASymbolsListRes)
        for symbol in answer.symbol:
            self._learn(symbol)

    async def _load_details(self, asker: Asker) -> None:
        if any(symbol_id not in self._symbols for symbol_id in self._wanted):
            await self._loading_symbols.join(self._tasks, lambda: self._load_symbols(asker), "symbols")
        batch, self._wanted = self._missing(self._wanted), set()
        if not batch:
            return
        try:
            details = await self._ask_details(batch, asker)
        except BrokerFault as fault:
            if fault.broker_code not in faults.NO_SUCH_SYMBOL:
                raise
            details = []
            for symbol_id in batch:  # one bad id spoils a whole batch (ctrader.md §4.4)
                details += await self._ask_one(symbol_id, asker)
        self._store_details(details)
        self._unknown |= self._missing(batch)

    async def _ask_one(self, symbol_id: int, asker: Asker) -> list[model_pb2.ProtoOASymbol]:
        try:
            return await self._ask_details({symbol_id}, asker)
        except BrokerFault as fault:
            if fault.broker_code not in faults.NO_SUCH_SYMBOL:
                raise
            return []

    async def _ask_details(self, symbol_ids: set[int], asker: Asker) -> list[model_pb2.ProtoOASymbol]:
        request = messages_pb2.ProtoOASymbolByIdReq(ctidTraderAccountId=asker.number, symbolId=sorted(symbol_ids))
        answer = await asker.ask_market(request, messages_pb2.ProtoOASymbolByIdRes)
        return list(answer.symbol)

    def _store_details(self, details: list[model_pb2.ProtoOASymbol]) -> None:
        for symbol in details:
            names = self._symbols.get(symbol.symbolId)
            if names is None or not 0 <= symbol.digits <= MAX_DIGITS:
                continue
            try:
                instrument = Instrument(
                    id=str(symbol.symbolId),
                    name=names[0],
                    price_digits=symbol.digits,
                    base_asset=names[1],
                    quote_asset=names[2],
                    lot_units=(units(symbol.lotSize) or None) if symbol.HasField("lotSize") else None,
                    min_units=units(symbol.minVolume) if symbol.HasField("minVolume") else None,
                    max_units=units(symbol.maxVolume) if symbol.HasField("maxVolume") else None,
                    step_units=units(symbol.stepVolume) if symbol.HasField("stepVolume") else None,
                )
            except ProtocolViolation:
                continue  # absurd sizes: as good as not described
            self.catalogue.instruments[instrument.id] = instrument
            self._digits[symbol.symbolId] = symbol.digits

    async def _load_chain(self, pair: tuple[str, str], asker: Asker) -> None:
        start, end = (self._asset_ids.get(name) for name in pair)
        if start is None or end is None:
            return
        request = messages_pb2.ProtoOASymbolsForConversionReq(
            ctidTraderAccountId=asker.number, firstAssetId=start, lastAssetId=end
        )
        answer = await asker.ask_market(request, messages_pb2.ProtoOASymbolsForConversionRes)
        for symbol in answer.symbol:
            self._learn(symbol)
        chain = walk(start, end, answer.symbol)
        if chain is not None:
            self.catalogue.chains[pair] = chain

    def _learn(self, symbol: model_pb2.ProtoOALightSymbol) -> None:
        base, quote = self._assets.get(symbol.baseAssetId), self._assets.get(symbol.quoteAssetId)
        if base is not None and quote is not None:
            self._symbols[symbol.symbolId] = (codec.text(symbol.symbolName), base, quote)


def walk(start: int, end: int, symbols: Iterable[model_pb2.ProtoOALightSymbol]) -> Chain | None:
    """The hops from one asset to another along the broker's ordered list (ctrader.md §4.2); None: elsewhere."""
    here = start
    hops: list[Hop] = []
    for symbol in symbols:
        if here == symbol.baseAssetId:
            hops.append(Hop(str(symbol.symbolId), inverse=False))
            here = symbol.quoteAssetId
        elif here == symbol.quoteAssetId:
            hops.append(Hop(str(symbol.symbolId), inverse=True))
            here = symbol.baseAssetId
        else:
            return None
    return tuple(hops) if here == end and 0 < len(hops) <= MAX_HOPS else None
