"""Application and account sessions of the simulated broker, asked over a real WebSocket."""

from collections.abc import AsyncIterator

import pytest

from bridge.runtime.clock import ManualClock
from bridge.simulator.ctrader import RefreshVariant, Simulator, SimulatorSettings
from bridge.simulator.ctrader.requests import HANDLERS
from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.simulator_probe import probe
from tests.support.waiting import eventually

USER_1, USER_1_LIVE, USER_2, USER_2_NETTED = 1_000_011, 1_000_013, 1_000_021, 1_000_022


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=3, prices="frozen", ctrader_tls_port=None)) as running:
        yield running


def trader(account_id: int = USER_1) -> m.ProtoOATraderReq:
    return m.ProtoOATraderReq(ctidTraderAccountId=account_id)


def account_auth(account_id: int = USER_1, token: str = "sim-access-1") -> m.ProtoOAAccountAuthReq:
    return m.ProtoOAAccountAuthReq(ctidTraderAccountId=account_id, accessToken=token)


async def test_everything_but_heartbeats_is_refused_when_the_application_is_not_authorised(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader, app_auth=False) as talk:
        await talk.send(common.ProtoHeartbeatEvent())
        assert (await talk.error(m.ProtoOAVersionReq()))[0] == "CH_CLIENT_NOT_AUTHENTICATED"
        assert (await talk.error(account_auth()))[0] == "CH_CLIENT_NOT_AUTHENTICATED"

        await talk.app_auth()

        assert (await talk.expect(m.ProtoOAVersionRes, m.ProtoOAVersionReq())).version
        assert talk.events == [], "a heartbeat must not be echoed"
        assert sim.counters.heartbeats_received == 1


async def test_the_connection_closes_when_the_client_secret_is_wrong(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader, app_auth=False) as talk:
        wrong = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="nope")
        code, text = await talk.error(wrong)
        await talk.closed.wait()

    assert (code, text) == ("CH_CLIENT_AUTH_FAILURE", "clientId or clientSecret is incorrect")
    assert talk.socket.close_code == 1000


async def test_a_second_application_auth_is_refused_when_the_first_succeeded(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        again = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")
        assert (await talk.error(again))[0] == "CH_CLIENT_ALREADY_AUTHENTICATED"


async def test_the_account_list_mixes_environments_when_asked_by_token(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        listed = await talk.expect(
            m.ProtoOAGetAccountListByAccessTokenRes,
            m.ProtoOAGetAccountListByAccessTokenReq(accessToken="sim-access-1"),
        )
        unknown = await talk.error(m.ProtoOAGetAccountListByAccessTokenReq(accessToken="nope"))
        profile = await talk.expect(
            m.ProtoOAGetCtidProfileByTokenRes, m.ProtoOAGetCtidProfileByTokenReq(accessToken="sim-access-2")
        )

    accounts = [(each.ctidTraderAccountId, each.isLive, each.brokerTitleShort) for each in listed.ctidTraderAccount]
    assert accounts == [(USER_1, False, "Sim"), (USER_1_LIVE, True, "Sim")]
    assert listed.permissionScope == o.SCOPE_TRADE
    assert unknown == ("CH_ACCESS_TOKEN_INVALID", "Access token expired")
    assert profile.profile.userId == 2


async def test_account_requests_are_refused_when_the_account_is_not_authorised_here(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk, probe(sim.ports.ctrader) as other:
        await other.login(USER_1, 1)
        assert await talk.error(trader()) == ("INVALID_REQUEST", "Trading account is not authorized")
        await talk.login(USER_1, 1)
        assert (await talk.expect(m.ProtoOATraderRes, trader())).trader.traderLogin == 5_000_011
    assert sim.counters.parallel_logins == 1


async def test_account_auth_is_refused_when_token_owner_or_host_do_not_fit(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk, probe(sim.ports.ctrader_live) as live:
        assert (await talk.error(account_auth(USER_2)))[0] == "CH_CTID_TRADER_ACCOUNT_NOT_FOUND"
        assert (await talk.error(account_auth(USER_1, "nope")))[0] == "CH_ACCESS_TOKEN_INVALID"
        assert (await talk.error(account_auth(USER_1_LIVE)))[0] == "CANT_ROUTE_REQUEST"
        assert (await live.error(account_auth(USER_1)))[0] == "CANT_ROUTE_REQUEST"
        await live.login(USER_1_LIVE, 1)


async def test_already_logged_in_is_answered_without_a_look_at_the_token_when_authorised_here(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(USER_1, 1)
        code, text = await talk.error(account_auth(USER_1, "somebody else's"))

    assert (code, text) == ("ALREADY_LOGGED_IN", "Trading account is already authorized in this channel")
    assert sim.counters.double_logins == 1
    assert sim.actions.counters()["authAttemptsByAccount"] == {str(USER_1): 2}


async def test_logout_is_final_with_the_disconnect_event_when_asked(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(USER_1, 1)
        await talk.expect(m.ProtoOAAccountLogoutRes, m.ProtoOAAccountLogoutReq(ctidTraderAccountId=USER_1))
        gone = await talk.event(m.ProtoOAAccountDisconnectEvent)
        assert gone.ctidTraderAccountId == USER_1
        assert (await talk.error(trader()))[1] == "Trading account is not authorized"


async def test_requests_over_the_budget_are_refused_then_blocked_when_the_client_insists() -> None:
    settings = SimulatorSettings(users=1, prices="frozen", requests_per_second=20, ctrader_tls_port=None)
    async with Simulator(settings, ManualClock()) as sim, probe(sim.ports.ctrader) as talk:
        for _ in range(25):
            await talk.send(m.ProtoOAVersionReq(), "v")
        await eventually(lambda: len(talk.everything) >= 26, within_s=5)

        answers = [message for asked_as, message in talk.everything if asked_as == "v"]
        refusals = [each.errorCode for each in answers if isinstance(each, m.ProtoOAErrorRes)]
        blocked = [each for each in answers if isinstance(each, m.ProtoOAErrorRes) and each.retryAfter]
        assert refusals[:2] == ["REQUEST_FREQUENCY_EXCEEDED", "BLOCKED_PAYLOAD_TYPE"]
        assert len(refusals) == 6, "app auth and 19 versions fit"
        assert blocked[0].retryAfter == 1
        assert sim.counters.budget_violations == 6
        assert sim.actions.counters()["budgetViolationsByRequest"] == {"ProtoOAVersionReq": 6}


async def test_historical_requests_have_their_own_budget_when_many_come() -> None:
    settings = SimulatorSettings(users=1, prices="frozen", requests_per_second=50, ctrader_tls_port=None)
    async with Simulator(settings, ManualClock()) as sim, probe(sim.ports.ctrader) as talk:
        await talk.login(USER_1, 1)
        deals = [await talk.ask(m.ProtoOADealListReq(ctidTraderAccountId=USER_1)) for _ in range(6)]
        assert [type(each) for each in deals] == [m.ProtoOADealListRes] * 5 + [m.ProtoOAErrorRes]
        await talk.pulse()


@pytest.mark.parametrize(
    ("variant", "disconnects", "survives"),
    [(RefreshVariant.SURVIVE, 0, True), (RefreshVariant.INVALIDATE, 0, False), (RefreshVariant.DISCONNECT, 2, False)],
)
async def test_a_refresh_ends_the_old_tokens_sessions_when_the_variant_says_so(
    variant: RefreshVariant, disconnects: int, survives: bool
) -> None:
    settings = SimulatorSettings(users=2, prices="frozen", refresh_variant=variant, ctrader_tls_port=None)
    async with Simulator(settings) as sim, probe(sim.ports.ctrader) as talk, probe(sim.ports.ctrader) as other:
        await talk.login(USER_2, 2)
        await talk.login(USER_2_NETTED, 2)
        await talk.login(USER_1, 1)
        await other.login(USER_2, 2)

        renewed = await talk.expect(m.ProtoOARefreshTokenRes, m.ProtoOARefreshTokenReq(refreshToken="sim-refresh-2"))
        lost = await talk.event(m.ProtoOAAccountsTokenInvalidatedEvent)
        await other.event(m.ProtoOAAccountsTokenInvalidatedEvent)
        await talk.pulse()

        assert sorted(lost.ctidTraderAccountIds) == [USER_2, USER_2_NETTED]
        assert sum(isinstance(each, m.ProtoOAAccountDisconnectEvent) for each in talk.events) == disconnects
        assert isinstance(await talk.ask(trader(USER_2)), m.ProtoOATraderRes) is survives
        assert isinstance(await talk.ask(trader(USER_1)), m.ProtoOATraderRes), "another user's session is untouched"
        answer = await talk.ask(account_auth(USER_2, renewed.accessToken))
        assert isinstance(answer, m.ProtoOAErrorRes if survives else m.ProtoOAAccountAuthRes)
        spent = await talk.error(m.ProtoOARefreshTokenReq(refreshToken="sim-refresh-2"))
        assert spent == ("ACCESS_DENIED", "Access denied")
        assert (await talk.error(account_auth(USER_2_NETTED, "sim-access-2")))[0] in (
            "CH_ACCESS_TOKEN_INVALID",
            "ALREADY_LOGGED_IN",
        )
        assert sim.counters.refreshes == 1


async def test_trading_is_refused_when_the_token_has_the_view_scope(sim: Simulator) -> None:
    code = sim.actions.mint_code(1, trade=False)
    result = sim.services.tokens.exchange(code, sim.services.clock.now_ms())
    assert result is not None
    async with probe(sim.ports.ctrader) as talk:
        listed = await talk.expect(
            m.ProtoOAGetAccountListByAccessTokenRes,
            m.ProtoOAGetAccountListByAccessTokenReq(accessToken=result[0].access_token),
        )
        await talk.expect(m.ProtoOAAccountAuthRes, account_auth(USER_1, result[0].access_token))
        order = m.ProtoOANewOrderReq(
            ctidTraderAccountId=USER_1, symbolId=1, orderType=o.MARKET, tradeSide=o.BUY, volume=1_000_000
        )
        refused = await talk.ask(order)
        await talk.expect(m.ProtoOATraderRes, trader())

    assert listed.permissionScope == o.SCOPE_VIEW
    assert isinstance(refused, m.ProtoOAOrderErrorEvent)
    assert refused.errorCode == "TRADING_NOT_ALLOWED"
    assert refused.HasField("orderId")
    assert refused.orderId == 0
    assert refused.HasField("positionId")


async def test_a_silent_client_is_cut_and_gets_heartbeats_before_when_idle() -> None:
    settings = SimulatorSettings(users=1, prices="frozen", idle_cutoff_s=0.4, heartbeat_s=0.15, ctrader_tls_port=None)
    async with Simulator(settings) as sim, probe(sim.ports.ctrader) as talk:
        await talk.event(common.ProtoHeartbeatEvent)
        await eventually(talk.closed.is_set, within_s=5)
    assert sim.counters.idle_cutoffs == 1


async def test_a_connection_over_the_limit_is_refused_when_the_limit_is_reached() -> None:
    settings = SimulatorSettings(users=1, prices="frozen", connection_limit=1, ctrader_tls_port=None)
    async with (
        Simulator(settings) as sim,
        probe(sim.ports.ctrader),
        probe(sim.ports.ctrader, app_auth=False) as second,
    ):
        request = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")
        assert (await second.error(request))[0] == "CONNECTIONS_LIMIT_EXCEEDED"
        await second.closed.wait()


async def test_nonsense_is_answered_and_the_session_lives_on_when_a_client_sends_it(sim: Simulator) -> None:
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(USER_1, 1)
        await talk.socket.send(b"\xff\xff\xff")
        await talk.socket.send(b"")
        await talk.socket.send(common.ProtoMessage(payloadType=9999).SerializeToString())
        half = common.ProtoMessage(payloadType=2121, clientMsgId="half")
        await talk.socket.send(half.SerializeToString())
        await eventually(lambda: len(talk.events) == 4, within_s=5)

        codes = [getattr(each, "errorCode", "") for each in talk.events]
        assert codes == ["INVALID_REQUEST", "INVALID_REQUEST", "UNSUPPORTED_MESSAGE", "INVALID_REQUEST"]
        await talk.expect(m.ProtoOATraderRes, trader())


def test_every_request_is_answered_when_it_is_in_the_schema() -> None:

    requests = {number for number, kind in PAYLOAD_CLASSES.items() if kind.__name__.endswith("Req")}
    assert requests == set(HANDLERS)
