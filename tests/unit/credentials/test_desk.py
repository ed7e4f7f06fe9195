"""Stored credentials as the API sees them: what they cover, entering, removing."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from bridge.brokers.base import BrokerAccount, BrokerFault, Credential, Environment, FaultKind, IssuedTokens, ReasonCode
from bridge.credentials import desk as desk_module
from bridge.credentials.desk import CredentialDesk
from bridge.credentials.views import ConnectCode, ConnectRefused
from bridge.runtime.clock import ManualClock
from core.errors import Conflict, InvalidInput, Unavailable
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.consents import ACCOUNTS, FakeAudit
from tests.support.fake_broker import FakeBroker, FakeCredentials, credential, fault


class FakeKeeper:
    """Keeps accounts and entries."""

    def __init__(self) -> None:
        self.covered: Sequence[BrokerAccount] = ()
        self.as_of: int | None = None
        self.entered: list[Mapping[str, object]] = []
        self.there = True

    async def put_accounts(self, user_id: str, broker: str, accounts: Sequence[BrokerAccount]) -> None:
        self.covered, self.as_of = accounts, 77

    async def accounts_as_of(self, user_id: str, broker: str) -> int | None:
        return self.as_of

    async def put_entered(self, user_id: str, broker: str, entry: Mapping[str, object]) -> Credential:
        self.entered.append(entry)
        return Credential("g", Environment.LIVE, {}, "5")

    async def remove(self, user_id: str, broker: str) -> bool:
        there, self.there = self.there, False
        return there


class FakeCache:
    """Keeps for good what was loaded."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def fetch(self, key: str, ttl_s: float, loader: Callable[[], Awaitable[Any]]) -> Any:
        if key not in self.values:
            self.values[key] = await loader()
        return self.values[key]


class World:
    def __init__(self, *, keeper: bool = True, cache: FakeCache | None = None) -> None:
        self.broker, self.source, self.keeper, self.audit = FakeBroker(), FakeCredentials(), FakeKeeper(), FakeAudit()
        self.broker.covered = ACCOUNTS
        self.source.put("u1", credential("u1"))
        self.clock = ManualClock()
        self.desk = CredentialDesk(
            brokers={"fake": self.broker},
            source=self.source,
            keeper=self.keeper if keeper else None,
            user_keys=UserKeyScheme(),
            clock=self.clock,
            cache=cache,
            audit=self.audit,
        )

    async def accounts(self, user: str = "u1"):
        return await self.desk.accounts(user_id=user, broker="fake")

    async def enter(self, entry: Mapping[str, object]):
        return await self.desk.enter(user_id="u1", broker="fake", entry=entry, actor="user")


async def test_accounts_are_what_the_broker_says_now_and_are_kept() -> None:
    world = World()
    covered = await world.accounts()
    assert covered is not None
    assert (covered.accounts, covered.as_of, covered.fresh) == (tuple(ACCOUNTS), world.clock.now_ms(), True)
    assert list(world.keeper.covered) == ACCOUNTS


async def test_accounts_work_without_a_place_to_keep_them() -> None:
    covered = await World(keeper=False).accounts()
    assert covered is not None
    assert covered.accounts == tuple(ACCOUNTS)


async def test_nothing_stored_is_none() -> None:
    assert await World().accounts("u2") is None


@pytest.mark.parametrize("problem", [fault(), fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)])
async def test_list_kept_before_is_answered_with_its_age_when_the_broker_refuses(problem: BrokerFault) -> None:
    world = World()
    world.broker.covered = problem
    world.source.put("u1", credential("u1", accounts=tuple(ACCOUNTS)))
    world.keeper.as_of = 42
    covered = await world.accounts()
    assert covered is not None
    assert (covered.accounts, covered.as_of, covered.fresh) == (tuple(ACCOUNTS), 42, False)


async def test_list_kept_before_is_answered_when_the_broker_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "ASKING_S", 0.01)
    world = World()
    world.keeper.as_of = 42

    async def silence() -> None:
        await asyncio.Event().wait()

    world.broker.covered = silence
    covered = await world.accounts()
    assert covered is not None
    assert (covered.as_of, covered.fresh) == (42, False)


@pytest.mark.parametrize("keeper", [True, False])
async def test_unavailable_when_the_broker_refuses_and_nothing_was_kept(keeper: bool) -> None:
    world = World(keeper=keeper)
    world.broker.covered = fault()
    with pytest.raises(Unavailable, match="cannot be asked"):
        await world.accounts()


async def test_refusal_says_to_connect_again_when_the_broker_refuses_the_credentials() -> None:
    world = World()
    world.broker.covered = fault(FaultKind.FATAL_USER)
    world.keeper.as_of = None
    with pytest.raises(Conflict, match="connect it again"):
        await world.accounts()


async def test_expired_token_is_renewed_once_and_asked_with_again() -> None:
    world = World()
    asked: list[str] = []

    async def accounts(one: Credential) -> list[BrokerAccount]:
        asked.append(one.secrets["accessToken"].reveal())
        if len(asked) == 1:
            raise fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED)
        return ACCOUNTS

    async def refresh(stale: Credential) -> IssuedTokens:
        return IssuedTokens({"accessToken": Secret("renewed")})

    world.broker.accounts, world.broker.refresh = accounts, refresh  # type: ignore[method-assign]
    covered = await world.accounts()
    assert covered is not None
    assert covered.fresh
    assert asked == ["u1:token-1", "renewed"]


async def test_broker_is_asked_once_for_a_token_while_the_cache_holds_its_answer() -> None:
    cache = FakeCache()
    world = World(cache=cache)
    first = await world.accounts()
    world.clock.advance(1)
    world.broker.covered = fault()
    assert await world.accounts() == first
    world.source.put("u1", credential("u1", "token-2"))
    world.keeper.as_of = None
    with pytest.raises(Unavailable):  # an answer to other tokens is none to these
        await world.accounts()
    world.source.put("u2", credential("u1"))
    with pytest.raises(Unavailable):  # nor is another user's, whatever tokens they hold
        await world.accounts("u2")
    (key,) = cache.values
    assert "token" not in key
    assert hashlib.sha256(b"u1").hexdigest() not in key


async def test_entered_credentials_are_checked_kept_and_told_to_the_audit() -> None:
    world = World()
    entry = {"accessToken": "a-secret"}
    entered = await world.enter(entry)
    assert (entered.environment, entered.account_id) == (Environment.LIVE, "5")
    assert world.keeper.entered == [entry]
    assert world.audit.told() == [("connect", "entered", "ok")]
    assert "a-secret" not in str(world.audit.entries)


async def test_wrong_credentials_are_refused_with_their_path_and_nothing_is_kept() -> None:
    world = World()
    with pytest.raises(InvalidInput) as refused:
        await world.enter({"accessToken": 5})
    assert refused.value.field == "credentials.accessToken"
    assert not world.keeper.entered
    assert not world.audit.entries


async def test_name_that_may_be_a_secret_is_not_repeated() -> None:
    world = World()

    def refuse(grant_id: str, entry: Mapping[str, object]) -> Credential:
        (name,) = entry
        raise InvalidInput(f"unknown field {name!r}", field=name)

    world.broker.read_credential = refuse  # type: ignore[method-assign]
    for name in ("a" * 33, "eyJ.a.b", "x-1"):
        with pytest.raises(InvalidInput) as refused:
            await world.enter({name: "x"})
        assert refused.value.field == "credentials"
        assert name not in str(refused.value)


async def test_unknown_broker_is_refused_everywhere() -> None:
    desk = World().desk
    for work in (
        desk.accounts(user_id="u1", broker="nobody"),
        desk.enter(user_id="u1", broker="nobody", entry={}, actor="user"),
        desk.remove(user_id="u1", broker="nobody", actor="user"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await work
        assert refused.value.field == "broker"


async def test_removal_is_told_once_when_repeated() -> None:
    world = World()
    for _ in range(2):
        await world.desk.remove(user_id="u1", broker="fake", actor="user")
    assert [entry[0].value for entry in world.audit.entries] == ["disconnect"]


async def test_entering_and_removing_say_so_where_nothing_can_be_kept() -> None:
    world = World(keeper=False)
    for work in (world.enter({"accessToken": "x"}), world.desk.remove(user_id="u1", broker="fake", actor="user")):
        with pytest.raises(ConnectRefused) as refused:
            await work
        assert refused.value.code is ConnectCode.NOT_CONFIGURED
