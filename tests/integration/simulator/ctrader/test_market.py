"""Symbols, prices and history of the simulated broker, asked over a real WebSocket."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from bridge.simulator.ctrader import Simulator, SimulatorSettings
from bridge.simulator.ctrader.actions import Refusal
from core.errors import InvalidInput
from core.orders import Side
from core.paper_trader import TradingMode
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.simulator_probe import Probe, probe
from tests.support.waiting import eventually

USD, EUR, JPY = 1_000_011, 1_000_021, 1_000_031
EURUSD = 1


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=3, prices="frozen", ctrader_tls_port=None)) as running:
        yield running


@pytest.fixture
async def talk(sim: Simulator) -> AsyncIterator[Probe]:
    async with probe(sim.ports.ctrader) as talking:
        await talking.login(USD, 1)
        yield talking


async def listed(talk: Probe, account_id: int) -> dict[str, o.ProtoOALightSymbol]:
    answer = await talk.expect(m.ProtoOASymbolsListRes, m.ProtoOASymbolsListReq(ctidTraderAccountId=account_id))
    return {symbol.symbolName: symbol for symbol in answer.symbol}


async def assets(talk: Probe, account_id: int) -> dict[str, int]:
    answer = await talk.expect(m.ProtoOAAssetListRes, m.ProtoOAAssetListReq(ctidTraderAccountId=account_id))
    return {asset.name: asset.assetId for asset in answer.asset}


async def test_servers_differ_in_ids_prices_and_listings_when_brokers_differ(sim: Simulator, talk: Probe) -> None:
    await talk.login(EUR, 2)
    sim_symbols, simex_symbols = await listed(talk, USD), await listed(talk, EUR)
    details = await talk.expect(m.ProtoOASymbolByIdRes, m.ProtoOASymbolByIdReq(ctidTraderAccountId=EUR, symbolId=[201]))
    prices = sim.actions.quotes()["servers"]

    assert next(iter(sim_symbols)) == next(iter(simex_symbols)) == "EURUSD"
    assert sim_symbols["EURUSD"].symbolId != simex_symbols["EURUSD"].symbolId
    assert sim_symbols["EURUSD"].baseAssetId != simex_symbols["EURUSD"].baseAssetId
    assert "EURGBP" in sim_symbols
    assert "EURGBP" not in simex_symbols
    assert not simex_symbols["EURSEK"].enabled
    (eurusd,) = details.symbol
    assert (eurusd.lotSize, eurusd.minVolume, eurusd.stepVolume) == (10_000_000, 100_000, 100_000)
    assert prices["Simex-demo"]["EURUSD"]["ask"] > prices["Sim-demo"]["EURUSD"]["ask"]
    for request in (
        m.ProtoOAAssetClassListReq(ctidTraderAccountId=USD),
        m.ProtoOASymbolCategoryListReq(ctidTraderAccountId=USD),
        m.ProtoOAGetDynamicLeverageByIDReq(ctidTraderAccountId=EUR, leverageId=eurusd.leverageId),
        m.ProtoOAExpectedMarginReq(ctidTraderAccountId=EUR, symbolId=201, volume=[100_000, 200_000]),
    ):
        assert (await talk.ask(request)).DESCRIPTOR.name.endswith("Res")


@pytest.mark.parametrize(
    ("account_id", "user", "first", "last", "chain"),
    [
        (JPY, 3, "USD", "JPY", ["USDJPY"]),
        (JPY, 3, "CHF", "JPY", ["USDCHF", "USDJPY"]),
        (EUR, 2, "GBP", "EUR", ["GBPUSD", "EURUSD"]),
        (USD, 1, "SEK", "USD", ["EURSEK", "EURUSD"]),
    ],
)
async def test_conversion_chains_lead_from_asset_to_asset_when_asked(
    sim: Simulator, account_id: int, user: int, first: str, last: str, chain: list[str]
) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(account_id, user)
        ids = await assets(talk, account_id)
        answer = await talk.expect(
            m.ProtoOASymbolsForConversionRes,
            m.ProtoOASymbolsForConversionReq(
                ctidTraderAccountId=account_id, firstAssetId=ids[first], lastAssetId=ids[last]
            ),
        )
    assert [symbol.symbolName for symbol in answer.symbol] == chain


async def test_a_subscription_begins_with_the_latest_price_and_goes_on_when_prices_move(
    sim: Simulator, talk: Probe
) -> None:
    subscribe = m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=USD, symbolId=[EURUSD, 2])
    await talk.expect(m.ProtoOASubscribeSpotsRes, subscribe)
    await talk.pulse()
    first = list(talk.events)
    sim.actions.quote("EURUSD", bid=Decimal("1.08449"))
    sim.actions.quote("EURUSD", ask=Decimal("1.08455"))
    await eventually(lambda: len(talk.events) == 4, within_s=5)
    again = await talk.error(subscribe)
    await talk.expect(
        m.ProtoOAUnsubscribeSpotsRes, m.ProtoOAUnsubscribeSpotsReq(ctidTraderAccountId=USD, symbolId=[EURUSD])
    )
    sim.actions.quote("EURUSD", bid=Decimal("1.08440"))
    await talk.pulse()

    assert [each.symbolId for each in first] == [EURUSD, 2]
    assert (first[0].bid, first[0].ask) == (108_448, 108_452)
    only_bid, only_ask = talk.events[2:]
    assert only_bid.bid == 108_449
    assert not only_bid.HasField("ask")
    assert only_ask.ask == 108_455
    assert not only_ask.HasField("bid")
    assert not only_ask.HasField("timestamp")
    assert again[0] == "ALREADY_SUBSCRIBED"
    assert len(talk.events) == 4


async def test_one_unknown_id_spoils_the_batch_when_subscribing(sim: Simulator, talk: Probe) -> None:
    code, _ = await talk.error(m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=USD, symbolId=[EURUSD, 4711]))
    assert code == "SYMBOL_NOT_FOUND"
    assert not sim.services.spots.subscribed("Sim-demo", EURUSD)


async def test_every_account_gets_its_own_tick_when_many_share_a_connection(sim: Simulator, talk: Probe) -> None:
    simex = sim.services.world.accounts[EUR].server.by_name["EURUSD"].id
    await talk.login(EUR, 2)
    await talk.login(JPY, 3)
    for account_id, symbol_id in ((USD, EURUSD), (JPY, EURUSD), (EUR, simex)):
        await talk.ask(m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account_id, symbolId=[symbol_id]))
    await talk.pulse()
    talk.events.clear()

    sim.actions.quote("EURUSD", bid=Decimal("1.1"), ask=Decimal("1.10002"))
    await eventually(lambda: len(talk.events) == 3, within_s=5)

    seen = {(each.ctidTraderAccountId, each.symbolId, each.bid, each.ask) for each in talk.events}
    assert seen == {
        (USD, EURUSD, 110_000, 110_002),
        (JPY, EURUSD, 110_000, 110_002),
        (EUR, simex, 110_000, 110_002),
    }


async def test_live_bars_need_spots_and_ride_on_them_when_subscribed(sim: Simulator, talk: Probe) -> None:
    bars = m.ProtoOASubscribeLiveTrendbarReq(ctidTraderAccountId=USD, period=o.M1, symbolId=EURUSD)
    assert (await talk.error(bars))[0] == "NOT_SUBSCRIBED_TO_SPOTS"
    await talk.ask(
        m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=USD, symbolId=[EURUSD], subscribeToSpotTimestamp=True)
    )
    await talk.expect(m.ProtoOASubscribeLiveTrendbarRes, bars)
    talk.events.clear()
    sim.actions.quote("EURUSD", bid=Decimal("1.09"), ask=Decimal("1.09002"))
    spot = await talk.event(m.ProtoOASpotEvent, lambda each: each.bid == 109_000)

    (bar,) = spot.trendbar
    assert bar.low + bar.deltaClose == 109_000
    assert bar.low + bar.deltaHigh >= 109_000
    assert spot.timestamp > 0
    await talk.expect(
        m.ProtoOAUnsubscribeLiveTrendbarRes,
        m.ProtoOAUnsubscribeLiveTrendbarReq(ctidTraderAccountId=USD, period=o.M1, symbolId=EURUSD),
    )


async def test_depth_is_sent_whole_when_subscribed(sim: Simulator, talk: Probe) -> None:
    await talk.expect(
        m.ProtoOASubscribeDepthQuotesRes,
        m.ProtoOASubscribeDepthQuotesReq(ctidTraderAccountId=USD, symbolId=[EURUSD]),
    )
    sim.actions.quote("EURUSD", bid=Decimal("1.09"), ask=Decimal("1.09002"))
    depth = await talk.event(m.ProtoOADepthEvent, lambda each: any(quote.bid == 109_000 for quote in each.newQuotes))
    assert len(depth.newQuotes) == 6
    await talk.expect(
        m.ProtoOAUnsubscribeDepthQuotesRes,
        m.ProtoOAUnsubscribeDepthQuotesReq(ctidTraderAccountId=USD, symbolId=[EURUSD]),
    )


async def test_history_tells_of_deals_orders_ticks_and_bars_when_asked(sim: Simulator, talk: Probe) -> None:
    opened = sim.actions.order(USD, symbol="EURUSD", side=Side.BUY, units=Decimal(2000))
    position_id = int(opened["positionId"])
    closed = sim.actions.close_position(USD, position_id)
    deals = await talk.expect(m.ProtoOADealListRes, m.ProtoOADealListReq(ctidTraderAccountId=USD))
    page = await talk.expect(m.ProtoOADealListRes, m.ProtoOADealListReq(ctidTraderAccountId=USD, maxRows=1))
    orders = await talk.expect(
        m.ProtoOAOrderListByPositionIdRes,
        m.ProtoOAOrderListByPositionIdReq(ctidTraderAccountId=USD, positionId=position_id),
    )
    details = await talk.expect(
        m.ProtoOAOrderDetailsRes,
        m.ProtoOAOrderDetailsReq(ctidTraderAccountId=USD, orderId=int(opened["orderId"])),
    )
    offsets = await talk.expect(
        m.ProtoOADealOffsetListRes,
        m.ProtoOADealOffsetListReq(ctidTraderAccountId=USD, dealId=int(opened["deals"][0])),
    )

    assert [str(each.dealId) for each in deals.deal] == [*opened["deals"], *closed["deals"]]
    assert not deals.hasMore
    assert (len(page.deal), page.hasMore) == (1, True)
    assert [each.closingOrder for each in orders.order] == [False, True]
    assert details.order.orderStatus == o.ORDER_STATUS_FILLED
    assert len(details.deal) == 1
    assert [(str(each.dealId), each.volume) for each in offsets.offsetBy] == [(closed["deals"][0], 200_000)]


async def test_bars_of_the_past_are_the_same_twice_and_carry_the_old_timestamp_when_asked(
    sim: Simulator, talk: Probe
) -> None:
    now_ms = sim.services.clock.now_ms()
    request = m.ProtoOAGetTrendbarsReq(
        ctidTraderAccountId=USD, symbolId=EURUSD, period=o.H1, fromTimestamp=now_ms - 86_400_000, toTimestamp=now_ms
    )
    first = await talk.expect(m.ProtoOAGetTrendbarsRes, request)
    second = await talk.expect(m.ProtoOAGetTrendbarsRes, request)
    request.fromTimestamp = now_ms - 400 * 86_400_000
    too_long = await talk.error(request)

    assert first.trendbar[:-1] == second.trendbar[:-1]
    assert len(first.trendbar) == 24
    assert first.HasField("timestamp")
    assert too_long[0] == "INCORRECT_BOUNDARIES"


async def test_ticks_come_newest_first_as_differences_when_asked(sim: Simulator, talk: Probe) -> None:
    for bid in ("1.081", "1.082", "1.083"):
        sim.actions.quote("EURUSD", bid=Decimal(bid), ask=Decimal("1.09"))
    answer = await talk.expect(
        m.ProtoOAGetTickDataRes, m.ProtoOAGetTickDataReq(ctidTraderAccountId=USD, symbolId=EURUSD, type=o.BID)
    )
    values = [sum(each.tick for each in answer.tickData[: index + 1]) for index in range(3)]
    assert values == [108_300, 108_200, 108_100]
    assert answer.tickData[0].timestamp > 10**12
    assert answer.tickData[1].timestamp <= 0


async def test_symbol_changes_reach_only_accounts_of_that_server_when_made(sim: Simulator, talk: Probe) -> None:
    await talk.login(EUR, 2)
    gold = sim.services.world.accounts[USD].server.by_name["XAUUSD"].id
    sim.actions.change_symbol("XAUUSD", trading_mode=TradingMode.CLOSE_ONLY, server="Sim-demo")
    changed = await talk.event(m.ProtoOASymbolChangedEvent)
    await talk.pulse()
    details = await talk.expect(
        m.ProtoOASymbolByIdRes, m.ProtoOASymbolByIdReq(ctidTraderAccountId=USD, symbolId=[gold])
    )
    assert (changed.ctidTraderAccountId, list(changed.symbolId)) == (USD, [gold])
    assert sum(isinstance(each, m.ProtoOASymbolChangedEvent) for each in talk.events) == 1
    assert details.symbol[0].tradingMode == o.CLOSE_ONLY_MODE
    with pytest.raises(Refusal) as refused:
        sim.actions.order(USD, symbol="XAUUSD", side=Side.BUY, units=Decimal(1))
    assert refused.value.code == "TRADING_DISABLED"


async def test_orders_are_refused_when_the_market_is_closed(sim: Simulator) -> None:
    sim.actions.change_symbol("EURUSD", is_open=False)
    with pytest.raises(Refusal) as refused:
        sim.actions.order(USD, symbol="EURUSD", side=Side.BUY, units=Decimal(1000))
    assert refused.value.code == "MARKET_CLOSED"


async def test_prices_follow_the_seed_when_they_walk() -> None:
    def walked(seed: int) -> object:
        simulator = Simulator(SimulatorSettings(users=1, seed=seed))
        for _ in range(200):
            simulator.services.prices.step()
        return simulator.actions.quotes()["servers"]

    assert walked(7) == walked(7)
    assert walked(7) != walked(8)


async def test_prices_follow_the_file_when_they_are_replayed(tmp_path: Path) -> None:
    file = tmp_path / "ticks.csv"
    file.write_text("time_ms,symbol,bid,ask\n1000,EURUSD,1.2,1.20002\n1200,USDJPY,151.5,151.51\n9000,EURUSD,1.3,1.31\n")
    simulator = Simulator(SimulatorSettings(users=1, prices=str(file)))
    simulator.services.prices.step()
    quotes = simulator.actions.quotes()["servers"]["Sim-demo"]
    assert quotes["EURUSD"] == {"bid": 1.2, "ask": 1.20002}
    assert quotes["USDJPY"] == {"bid": 151.5, "ask": 151.51}


@pytest.mark.parametrize("line", ["1000,NOPE,1.2,1.3", "1000,EURUSD,1.3,1.2", "1000,EURUSD,1.2", "soon,EURUSD,1,2"])
async def test_a_replay_is_refused_with_its_line_when_the_file_is_wrong(tmp_path: Path, line: str) -> None:
    file = tmp_path / "ticks.csv"
    file.write_text(f"time_ms,symbol,bid,ask\n{line}\n")
    with pytest.raises(InvalidInput):
        Simulator(SimulatorSettings(users=1, prices=str(file)))


async def test_a_client_that_does_not_read_gets_the_newest_price_when_it_reads_again(
    sim: Simulator, talk: Probe
) -> None:
    await talk.ask(m.ProtoOASubscribeSpotsReq(ctidTraderAccountId=USD, symbolId=[EURUSD]))
    await talk.pulse()
    connection = sim.services.hub.connections[1]
    connection.paused = True
    for bid in ("1.081", "1.082", "1.083"):
        sim.actions.quote("EURUSD", bid=Decimal(bid), ask=Decimal("1.09"))
    await talk.pulse()
    before = len(talk.events)
    connection.paused = False
    sim.services.spots.catch_up(connection)
    await talk.event(m.ProtoOASpotEvent, lambda each: each.bid == 108_300 and each.ask == 109_000)

    assert before == 1
    assert sim.counters.spot_events_skipped == 3
