"""Connecting a broker on a real database: the way through, and everybody who must not get through."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from bridge.brokers.base import FaultKind, ReasonCode
from bridge.credentials.connect import Connect
from bridge.credentials.consents import COMPLETE_S, FLOW_S, KEPT_S, OPEN_PER_USER
from bridge.credentials.views import ConnectCode, ConnectRefused
from bridge.db.database import Database
from bridge.telemetry.redaction import REDACTOR
from core.errors import InvalidInput, NotFound, Unavailable
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.consents import ACCOUNTS, APP, BRIDGE, FakeGrants, Flow, parameters
from tests.support.fake_broker import FakeBroker, fault
from tests.support.waiting import eventually


@pytest.fixture
async def flow(database: Database) -> AsyncIterator[Flow]:
    made = Flow(database)
    yield made
    await made.connect.close()


class refused:
    """The block must be refused with this code."""

    def __init__(self, code: ConnectCode) -> None:
        self._code = code
        self._raises = pytest.raises(ConnectRefused)

    def __enter__(self) -> None:
        self._caught = self._raises.__enter__()

    def __exit__(self, *error: object) -> bool:
        handled = self._raises.__exit__(*error)  # type: ignore[arg-type]
        assert self._caught.value.code is self._code
        return handled


def nothing_stored(flow: Flow) -> bool:
    return not flow.grants.issued and not flow.grants.puts


# ---------------------------------------------------------------- the way through


async def test_user_is_connected_when_the_browser_comes_back_and_the_same_user_completes(flow: Flow) -> None:
    browser = flow.browser()
    url = await flow.start(return_to=f"{APP}/brokers?tab=2", scope="trading")
    assert url.startswith(f"{BRIDGE}/oauth/fake/begin?state=")
    asked = await browser.open(url)
    assert asked["redirect_uri"] == f"{BRIDGE}/oauth/fake/callback"
    assert asked["scope"] == "trading"
    back = await browser.come_back()
    assert {name: back[name] for name in ("tab", "connect", "broker")} == {
        "tab": "2",
        "connect": "ok",
        "broker": "fake",
    }
    connected = await flow.complete(back["ticket"])

    assert connected.user_key == UserKeyScheme().keys("user-1").canonical
    assert connected.covered.accounts == tuple(ACCOUNTS)
    assert connected.covered.fresh
    issued, scope = flow.grants.issued["user-1", "fake"]
    assert issued.secrets["accessToken"].reveal() == "access-of-the-code"
    assert scope.value == "trading"
    assert flow.grants.accounts["user-1", "fake"] == ACCOUNTS
    assert flow.broker.exchanged == [("the-code", f"{BRIDGE}/oauth/fake/callback")]
    assert flow.audit.told() == [
        ("consent", "started", "ok"),
        ("consent", "parked", "ok"),
        ("connect", "completed", "ok"),
    ]


async def test_cookie_goes_to_the_callback_only_and_is_secure_behind_https(flow: Flow) -> None:
    begun = await flow.connect.begin(broker="fake", state=parameters(await flow.start())["state"])
    assert begun.cookie_path == "/base/oauth/fake/callback" == urlsplit(f"{BRIDGE}/oauth/fake/callback").path
    assert begun.secure
    assert begun.max_age_s == FLOW_S
    assert begun.cookie not in repr(begun)


async def test_database_holds_nothing_that_opens_anything(flow: Flow) -> None:
    browser = flow.browser()
    asked = await browser.open(await flow.start())
    cookie = next(iter(browser.cookies.values()))
    back = await browser.come_back("canary-code")
    dump = "".join(
        value.hex() + str(value) if isinstance(value, bytes) else str(value)
        for row in await flow.rows()
        for value in row.values()
    )
    for secret in (asked["state"], cookie, back["ticket"], "canary-code"):
        assert secret not in dump
        assert secret.encode().hex() not in dump


async def test_two_consents_in_one_browser_do_not_disturb_each_other(flow: Flow) -> None:
    browser = flow.browser()
    first = (await browser.open(await flow.start()))["state"]
    second = (await browser.open(await flow.start()))["state"]
    assert (await browser.come_back(state=first))["connect"] == "ok"
    assert (await browser.come_back(state=second))["connect"] == "ok"


async def test_browser_may_begin_again_before_it_comes_back(flow: Flow) -> None:
    browser, url = flow.browser(), await flow.start()
    await browser.open(url)
    await browser.open(url)
    assert (await browser.come_back())["connect"] == "ok"


async def test_consent_is_stored_although_the_broker_cannot_list_accounts(flow: Flow) -> None:
    flow.broker.covered = fault()
    connected = await flow.complete(await flow.ticket())
    assert (connected.covered.accounts, connected.covered.as_of, connected.covered.fresh) == ((), None, False)
    assert flow.grants.puts == 1


async def test_issued_tokens_are_kept_until_the_database_is_back(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.credentials.connect.STORE_AGAIN_S", 0.01)
    flow.grants.away = 3
    await flow.complete(await flow.ticket())
    assert flow.grants.puts == 1
    assert len(flow.broker.exchanged) == 1


async def test_completion_goes_on_when_the_caller_is_gone(flow: Flow) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    flow.broker.covered = hold
    ticket = await flow.ticket()
    caller = asyncio.create_task(flow.complete(ticket))
    await asyncio.wait_for(arrived.wait(), 10)
    caller.cancel()
    await asyncio.wait([caller])
    go_on.set()
    await flow.connect.close()
    assert flow.audit.told()[-1] == ("connect", "completed", "ok")


# ---------------------------------------------------------------- denied, late, wrong, again


@pytest.mark.parametrize(("error", "told"), [("access_denied", "denied"), ("server_error", "failed"), (None, "failed")])
async def test_app_is_told_when_the_browser_brings_no_code(flow: Flow, error: str | None, told: str) -> None:
    browser = flow.browser()
    await browser.open(await flow.start())
    back = await browser.come_back(None, error=error)
    assert (back["connect"], "ticket" in back) == (told, False)
    assert [row["step"] for row in await flow.rows()] == ["denied"]


@pytest.mark.parametrize("code", ["", "x" * 2049, "two words", "line\nbreak", "ünicode", '","level":"'])
async def test_code_that_cannot_be_one_is_not_parked(flow: Flow, code: str) -> None:
    browser = flow.browser()
    await browser.open(await flow.start())
    assert (await browser.come_back(code))["connect"] == "failed"
    assert all(row["sealed_code"] is None for row in await flow.rows())


@pytest.mark.parametrize(
    "return_to", ["https://evil.example/", "//evil.example", f"{APP}/../x", "https://app.example.com"]
)
async def test_start_is_refused_when_the_return_address_is_not_on_the_list(flow: Flow, return_to: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        await flow.start(return_to=return_to)
    assert wrong.value.field == "returnTo"
    assert not await flow.rows()


async def test_unknown_broker_or_one_without_consent_is_not_found(flow: Flow) -> None:
    other = FakeBroker()
    other.capabilities = type(other.capabilities)(refresh=True, consent=False)
    flow.connect._brokers = {**flow.connect._brokers, "other": other}  # type: ignore[misc]
    for broker in ("nobody", "other"):
        with pytest.raises(NotFound):
            await flow.connect.begin(broker=broker, state="s" * 43)
        with pytest.raises(NotFound):
            await flow.connect.complete(user_id="user-1", broker=broker, ticket="s" * 43, actor="user")


@pytest.mark.parametrize("state", ["", "s" * 43, "short", "s" * 44, "ü" * 43, "' or 1=1 --", "../" * 20])
async def test_state_or_ticket_that_was_never_given_is_unknown(flow: Flow, state: str) -> None:
    await flow.start()
    with refused(ConnectCode.UNKNOWN):
        await flow.connect.begin(broker="fake", state=state)
    with refused(ConnectCode.UNKNOWN):
        await flow.connect.callback(broker="fake", state=state, cookies={}, code="c", error=None)
    with refused(ConnectCode.UNKNOWN):
        await flow.complete(state)


async def test_each_secret_works_in_its_own_place_only(flow: Flow) -> None:
    browser = flow.browser()
    state = (await browser.open(await flow.start()))["state"]
    cookie = next(iter(browser.cookies.values()))
    ticket = (await browser.come_back())["ticket"]
    for wrong in (state, cookie):
        with refused(ConnectCode.UNKNOWN):
            await flow.complete(wrong)
    with refused(ConnectCode.UNKNOWN):
        await flow.connect.begin(broker="fake", state=ticket)


async def test_beginning_too_late_is_expired_and_returning_too_late_tells_the_app(flow: Flow) -> None:
    url, browser = await flow.start(), flow.browser()
    await browser.open(url)
    await flow.let_pass(FLOW_S)
    with refused(ConnectCode.EXPIRED):
        await flow.browser().open(url)
    back = await browser.come_back()
    assert (back["connect"], "ticket" in back) == ("expired", False)


async def test_completion_in_time_counts_from_the_callback(flow: Flow) -> None:
    browser = flow.browser()
    await browser.open(await flow.start())
    await flow.let_pass(FLOW_S - 30)
    ticket = (await browser.come_back())["ticket"]
    await flow.let_pass(COMPLETE_S - 30)
    await flow.complete(ticket)


async def test_completion_too_late_is_expired_and_the_code_is_gone(flow: Flow) -> None:
    ticket = await flow.ticket()
    await flow.let_pass(COMPLETE_S)
    with refused(ConnectCode.EXPIRED):
        await flow.complete(ticket)
    assert nothing_stored(flow)
    assert not flow.broker.exchanged
    assert [(row["step"], row["sealed_code"]) for row in await flow.rows()] == [("spent", None)]


async def test_second_callback_and_second_completion_are_used(flow: Flow) -> None:
    browser = flow.browser()
    state = (await browser.open(await flow.start()))["state"]
    kept = dict(browser.cookies)
    ticket = (await browser.come_back())["ticket"]
    browser.cookies = kept
    with refused(ConnectCode.USED):
        await browser.come_back("another-code", state=state)
    await flow.complete(ticket)
    with refused(ConnectCode.USED):
        await flow.complete(ticket)
    with refused(ConnectCode.USED):
        await flow.connect.begin(broker="fake", state=state)
    assert [code for code, _ in flow.broker.exchanged] == ["the-code"]


async def test_denied_consent_cannot_be_brought_back_with_a_code(flow: Flow) -> None:
    browser = flow.browser()
    state = (await browser.open(await flow.start()))["state"]
    kept = dict(browser.cookies)
    await browser.come_back(None, error="access_denied")
    browser.cookies = kept
    with refused(ConnectCode.USED):
        await browser.come_back(state=state)


async def test_refused_code_is_final_and_stores_nothing(flow: Flow) -> None:
    flow.broker.exchange_result = fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
    ticket = await flow.ticket()
    with refused(ConnectCode.REFUSED):
        await flow.complete(ticket)
    with refused(ConnectCode.USED):
        await flow.complete(ticket)
    assert nothing_stored(flow)


async def test_code_is_tried_once_when_the_broker_does_not_answer(flow: Flow) -> None:
    flow.broker.exchange_result = fault()
    ticket = await flow.ticket()
    with refused(ConnectCode.FAILED):
        await flow.complete(ticket)
    flow.broker.exchange_result = None
    with refused(ConnectCode.USED):
        await flow.complete(ticket)
    assert len(flow.broker.exchanged) == 1
    assert nothing_stored(flow)


# ---------------------------------------------------------------- who must not get through


async def test_victims_consent_is_refused_when_the_attacker_sends_them_to_the_broker(flow: Flow) -> None:
    """The attacker begins, and passes the broker's address on: the victim's browser has no cookie of ours."""
    attacker, victim = flow.browser(), flow.browser()
    state = (await attacker.open(await flow.start("attacker")))["state"]
    with refused(ConnectCode.OTHER_BROWSER):
        await victim.come_back("code-of-the-victim", state=state)
    assert all(row["sealed_code"] is None for row in await flow.rows())
    assert ("consent", "parked", "other-browser") in flow.audit.told()


async def test_attacker_cannot_complete_when_the_victim_began_at_the_attackers_address(flow: Flow) -> None:
    """The whole address is passed on: the victim's browser gets cookie and ticket, and the victim's app brings it."""
    victim = flow.browser()
    await victim.open(await flow.start("attacker"))
    back = await victim.come_back("code-of-the-victim")
    with refused(ConnectCode.OTHER_USER):
        await flow.complete(back["ticket"], "victim")
    with refused(ConnectCode.USED):  # it was destroyed: the attacker gains nothing by the ticket either
        await flow.complete(back["ticket"], "attacker")
    assert nothing_stored(flow)
    assert not flow.broker.exchanged
    assert [(row["step"], row["sealed_code"]) for row in await flow.rows()] == [("stolen", None)]


async def test_attackers_code_does_not_get_into_the_victims_session(flow: Flow) -> None:
    """The victim's browser is sent to the callback with the attacker's state and code, whatever it holds itself."""
    attacker, victim = flow.browser(), flow.browser()
    attackers = (await attacker.open(await flow.start("attacker")))["state"]
    victims = (await victim.open(await flow.start("victim")))["state"]
    with refused(ConnectCode.OTHER_BROWSER):
        await victim.come_back("code-of-the-attacker", state=attackers)
    with refused(ConnectCode.OTHER_BROWSER):  # nor may the attacker answer for the victim
        await attacker.come_back("code-of-the-attacker", state=victims)
    ticket = (await victim.come_back("code-of-the-victim", state=victims))["ticket"]
    await flow.complete(ticket, "victim")
    assert [code for code, _ in flow.broker.exchanged] == ["code-of-the-victim"]


async def test_cookie_of_one_consent_does_not_serve_another(flow: Flow) -> None:
    mine, theirs = flow.browser(), flow.browser()
    my_state = (await mine.open(await flow.start()))["state"]
    their_state = (await theirs.open(await flow.start()))["state"]
    (my_name,), (their_value,) = mine.cookies, theirs.cookies.values()
    for cookies in ({}, {my_name: ""}, {my_name: their_value}, {my_name: their_state}, {my_name: my_state}):
        with refused(ConnectCode.OTHER_BROWSER):
            await flow.connect.callback(broker="fake", state=my_state, cookies=cookies, code="c", error=None)
    assert (await mine.come_back(state=my_state))["connect"] == "ok"


async def test_nobody_in_particular_chooses_what_the_log_keeps_silent_about(flow: Flow) -> None:
    word = "a-word-that-the-log-needs"
    for state in ("A" * 43, parameters(await flow.start())["state"]):
        with pytest.raises(ConnectRefused):
            await flow.connect.callback(broker="fake", state=state, cookies={}, code=word, error=None)
    assert REDACTOR.redact(word) == word
    await flow.ticket(code="code-of-the-very-browser")
    assert REDACTOR.redact("code-of-the-very-browser") == "***"


async def test_callback_before_anybody_began_is_refused(flow: Flow) -> None:
    state = parameters(await flow.start())["state"]
    with refused(ConnectCode.OTHER_BROWSER):
        await flow.connect.callback(broker="fake", state=state, cookies={}, code="c", error=None)


async def test_ticket_of_one_broker_is_unknown_at_another(flow: Flow) -> None:
    flow.connect._brokers = {**flow.connect._brokers, "second": FakeBroker()}  # type: ignore[misc]
    ticket = await flow.ticket()
    with refused(ConnectCode.UNKNOWN):
        await flow.connect.complete(user_id="user-1", broker="second", ticket=ticket, actor="user")
    await flow.complete(ticket)


async def test_parked_code_does_not_open_when_it_is_pasted_into_another_row(flow: Flow) -> None:
    stolen, ticket = await flow.ticket("victim", "code-of-the-victim"), await flow.ticket("attacker")
    assert stolen != ticket
    await flow.database.execute(
        "update public.bridge_consents set sealed_code ="
        " (select sealed_code from public.bridge_consents where user_key = $1) where user_key = $2",
        *(UserKeyScheme().keys(user).canonical for user in ("victim", "attacker")),
    )
    with pytest.raises(Exception, match="does not open"):
        await flow.complete(ticket, "attacker")
    assert nothing_stored(flow)


# ---------------------------------------------------------------- several processes, and order


async def test_one_of_many_processes_completes_when_all_try_at_once(database_url: str) -> None:
    databases = [Database(Secret(database_url), size=4) for _ in range(3)]
    broker, grants = FakeBroker(), FakeGrants()
    for each in databases:
        await each.open()
    flows = [Flow(each, broker, grants) for each in databases]
    ticket = await flows[0].ticket()
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    watcher = Database(Secret(database_url))
    await watcher.open()

    async def all_wait() -> bool:
        return bool(await watcher.fetch_value(waiting) == 9)

    async with watcher.transaction() as connection:  # every one of them has seen the code before anyone can take it
        await connection.execute("select from public.bridge_consents for update")
        tries = [asyncio.create_task(flow.complete(ticket)) for flow in flows * 3]
        await eventually(all_wait, within_s=4, what="all of them want the code")
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    await watcher.close()
    won = [each for each in outcomes if not isinstance(each, BaseException)]
    lost = [each.code for each in outcomes if isinstance(each, ConnectRefused)]
    for flow in flows:
        await flow.connect.close()
    for each in databases:
        await each.close()
    assert (len(won), lost) == (1, [ConnectCode.USED] * 8)
    assert (len(broker.exchanged), grants.puts) == (1, 1)


async def test_one_callback_parks_its_code_when_two_come_at_once(flow: Flow) -> None:
    browser = flow.browser()
    state = (await browser.open(await flow.start()))["state"]
    visits = [
        flow.connect.callback(broker="fake", state=state, cookies=dict(browser.cookies), code=f"c{n}", error=None)
        for n in range(6)
    ]
    outcomes = await asyncio.gather(*visits, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
    assert {each.code for each in outcomes if isinstance(each, ConnectRefused)} == {ConnectCode.USED}


async def test_old_rows_go_and_latecomers_are_told_why_meanwhile(flow: Flow) -> None:
    url = await flow.start()
    await flow.let_pass(FLOW_S + KEPT_S - 60)
    await flow.start("user-2")
    with refused(ConnectCode.EXPIRED):
        await flow.browser().open(url)
    await flow.let_pass(120)
    await flow.start("user-2")
    with refused(ConnectCode.UNKNOWN):
        await flow.browser().open(url)


async def test_rows_of_one_user_stay_few(flow: Flow) -> None:
    for _ in range(OPEN_PER_USER + 5):
        last = await flow.start()
    await flow.start("user-2")
    assert len(await flow.rows()) == OPEN_PER_USER + 1
    await flow.browser().open(last)


async def test_consents_go_with_their_user(flow: Flow) -> None:
    await flow.start()
    await flow.start("user-2")
    await flow.database.execute("delete from public.bridge_users where user_id = 'user-1'")
    assert [row["user_key"] for row in await flow.rows()] == [UserKeyScheme().keys("user-2").canonical]


async def test_every_step_is_unavailable_when_the_database_is_down(flow: Flow) -> None:
    url = await flow.start()
    await flow.database.close()
    for step in (
        flow.start(),
        flow.browser().open(url),
        flow.connect.callback(broker="fake", state="s" * 43, cookies={}, code="c", error=None),
        flow.complete("s" * 43),
    ):
        with pytest.raises(Unavailable):
            await step
    assert isinstance(flow.connect, Connect)
