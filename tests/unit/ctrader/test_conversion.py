"""Conversion chains: which way each hop is walked, and chains that lead nowhere."""

import pytest

from bridge.brokers.ctrader.market import walk
from core.instruments import Hop
from protos.ctrader import model_pb2


def light(symbol: int, base: int, quote: int) -> model_pb2.ProtoOALightSymbol:
    return model_pb2.ProtoOALightSymbol(symbolId=symbol, baseAssetId=base, quoteAssetId=quote)


def test_chain_multiplies_or_divides_when_it_is_walked() -> None:
    eur, usd, jpy = 1, 2, 3
    chain = walk(jpy, eur, [light(10, usd, jpy), light(11, eur, usd)])
    assert chain == (Hop("10", inverse=True), Hop("11", inverse=True))
    assert walk(eur, jpy, [light(11, eur, usd), light(10, usd, jpy)]) == (Hop("11", False), Hop("10", False))


@pytest.mark.parametrize("symbols", [[], [light(10, 5, 6)], [light(10, 2, 3)]])
def test_chain_is_unknown_when_it_does_not_lead_there(symbols: list[model_pb2.ProtoOALightSymbol]) -> None:
    assert walk(3, 1, symbols) is None
