"""Renewals of a grant's tokens on a real Postgres: one request at a time, committed before use, counted, and final."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, Credential, FaultKind, IssuedTokens, ReasonCode
from bridge.credentials.grant_table import GrantTable
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.database import Database
from bridge.db.migrate import migrate
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock
from bridge.telemetry.audit import Action
from core.errors import Unavailable
from core.secret import Secret
from tests.support.vaults import (
    BROKER,
    QUICK,
    TokenBroker,
    entry,
    no_answer,
    refused,
    token,
    unreachable,
    vault_credentials,
)
from tests.support.waiting import eventually

GRANT = "select version, refresh_owner, refresh_attempts, refusal from public.bridge_grants"


class AuditNotes:
    """An audit log that keeps (outcome, attempt) of what it is told."""

    def __init__(self) -> None:
        self.refreshes: list[tuple[str, Any]] = []

    def record(
        self,
        action: Action,
        *,
        user_key: str | None,
        actor: str,
        outcome: str = "ok",
        detail: Mapping[str, str | int | bool | None] | None = None,
    ) -> None:
        assert user_key is not None
        assert detail is not None
        if action is Action.REFRESH:
            assert (actor, detail["broker"]) == ("bridge", BROKER)
            self.refreshes.append((outcome, detail["attempt"]))


class Renewing:
    """Two processes on one database, one user `ann`, one broker."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broker = TokenBroker()
        self.audit = AuditNotes()
        self.one = vault_credentials(database, self.broker, owner="one", audit=self.audit)
        self.two = vault_credentials(database, self.broker, owner="two", audit=self.audit)

    async def stored(self, user: str = "ann") -> Credential:
        return await self.one.put_entered(user, BROKER, entry(user))

    async def refresh(self, stale: Credential, *, by: VaultCredentials | None = None) -> Credential:
        return await (by or self.one).refresh("ann", BROKER, stale, self.broker.refresh)

    async def fault(self, stale: Credential, *, by: VaultCredentials | None = None) -> BrokerFault:
        with pytest.raises(BrokerFault) as raised:
            await self.refresh(stale, by=by)
        return raised.value

    async def row(self) -> tuple[Any, ...]:
        row = await self.database.fetch_row(GRANT)
        assert row is not None
        return tuple(row)


@pytest.fixture
async def renewing(database: Database) -> AsyncIterator[Renewing]:
    made = Renewing(database)
    yield made
    await made.one.close()
    await made.two.close()


# ---------------------------------------------------------------- well


async def test_the_new_pair_is_committed_when_it_is_handed_out(renewing: Renewing) -> None:
    stale = await renewing.stored()
    committed: list[str] = []

    async def look() -> None:
        committed.append(token(await renewing.two.get("ann", BROKER)))
        assert (await renewing.row())[2] == 1

    renewing.broker.meanwhile = look
    renewed = await renewing.refresh(stale)
    assert committed == ["ann-access"]
    assert renewed == await renewing.two.get("ann", BROKER)
    assert token(renewed) == "access-1"
    assert renewed.grant_id == stale.grant_id
    assert renewed.expires_at_ms is not None
    assert await renewing.row() == (3, None, 0, None)
    assert renewing.audit.refreshes == [("ok", 1)]
    assert token(await renewing.refresh(renewed)) == "access-2"


async def test_nothing_is_asked_when_a_newer_pair_is_stored_already(renewing: Renewing) -> None:
    stale = await renewing.stored()
    newer = await renewing.refresh(stale)
    assert await renewing.refresh(stale) == newer
    assert await renewing.refresh(stale, by=renewing.two) == newer
    assert renewing.broker.requests.total() == 1


@pytest.mark.parametrize("round_", range(3))
async def test_one_request_is_made_when_many_ask_in_two_processes_at_once(renewing: Renewing, round_: int) -> None:
    stale = await renewing.stored()

    async def slow() -> None:
        await asyncio.sleep(0.05)  # long enough for all of them to ask meanwhile

    renewing.broker.meanwhile = slow
    asking = [renewing.refresh(stale, by=by) for by in (renewing.one, renewing.two) for _ in range(10)]
    found = await asyncio.gather(*asking)
    assert {token(each) for each in found} == {"access-1"}
    assert renewing.broker.requests.total() == 1
    assert renewing.audit.refreshes == [("ok", 1)]


async def test_grants_of_different_users_do_not_wait_for_one_another(renewing: Renewing) -> None:
    users = [f"user-{number}" for number in range(10)]
    stale = {user: await renewing.stored(user) for user in users}
    inside = 0
    all_inside = asyncio.Event()

    async def together() -> None:
        nonlocal inside
        inside += 1
        if inside == len(users):
            all_inside.set()
        await all_inside.wait()

    renewing.broker.meanwhile = together
    found = await asyncio.gather(
        *(renewing.one.refresh(user, BROKER, stale[user], renewing.broker.refresh) for user in users)
    )
    assert len({token(each) for each in found}) == len(users)


async def test_a_renewal_goes_on_when_those_who_wait_are_cancelled(renewing: Renewing) -> None:
    stale = await renewing.stored()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        asked.set()
        await answer.wait()

    renewing.broker.meanwhile = hold
    waiting = asyncio.create_task(renewing.refresh(stale))
    await asked.wait()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    answer.set()

    async def arrived() -> bool:
        return token(await renewing.two.get("ann", BROKER)) == "access-1"

    await eventually(arrived, within_s=10)


# ---------------------------------------------------------------- refused and in doubt


@pytest.mark.parametrize("code", [ReasonCode.TOKEN_REVOKED, ReasonCode.TOKEN_EXPIRED])
async def test_a_final_refusal_is_final_for_every_process_until_new_tokens_come(
    renewing: Renewing, code: ReasonCode
) -> None:
    stale = await renewing.stored()
    renewing.broker.faults = [refused(code)]
    for by in (renewing.one, renewing.two, renewing.one):
        fault = await renewing.fault(stale, by=by)
        assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, code)
    assert renewing.broker.requests.total() == 1
    await renewing.one.put_entered("ann", BROKER, entry())  # the same again: nothing is known that was not before
    assert (await renewing.fault(stale)).kind is FaultKind.FATAL_USER
    assert renewing.broker.requests.total() == 1
    fresh = await renewing.one.put_entered("ann", BROKER, entry("fresh"))
    assert token(await renewing.refresh(fresh)) == "access-1"


async def test_a_token_in_doubt_is_tried_once_more_and_then_never_again(renewing: Renewing) -> None:
    stale = await renewing.stored()
    renewing.broker.faults = [no_answer(), no_answer()]
    for by in (renewing.one, renewing.two):
        assert (await renewing.fault(stale, by=by)).kind is FaultKind.TRANSIENT
    for by in (renewing.two, renewing.one, renewing.two):
        fault = await renewing.fault(stale, by=by)
        assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
    assert renewing.broker.requests == {"ann-refresh": 2}
    assert (await renewing.row())[3] == "token_revoked"
    assert [outcome for outcome, _ in renewing.audit.refreshes[:2]] == ["broker_error", "broker_error"]


async def test_a_token_in_doubt_renews_well_at_the_second_try_when_it_was_not_spent(renewing: Renewing) -> None:
    stale = await renewing.stored()
    renewing.broker.faults = [no_answer()]
    await renewing.fault(stale)
    assert token(await renewing.refresh(stale)) == "access-1"
    assert await renewing.row() == (3, None, 0, None)


async def test_attempts_do_not_count_when_the_broker_was_not_reached(renewing: Renewing) -> None:
    stale = await renewing.stored()
    renewing.broker.faults = [unreachable() for _ in range(5)]
    for _ in range(5):
        assert (await renewing.fault(stale)).reason.code is ReasonCode.BROKER_UNREACHABLE
    assert await renewing.row() == (2, None, 0, None)
    assert token(await renewing.refresh(stale)) == "access-1"


async def test_a_token_may_be_spent_when_the_adapter_fails_in_its_own_way(renewing: Renewing) -> None:
    stale = await renewing.stored()

    async def broken(_: Credential) -> IssuedTokens:
        raise KeyError("adapter")

    async def silent(_: Credential) -> IssuedTokens:
        await asyncio.Event().wait()
        raise AssertionError

    impatient = vault_credentials(
        renewing.database, renewing.broker, owner="three", times=replace(QUICK, request_s=0.05)
    )
    with pytest.raises(BrokerFault) as raised:
        await renewing.one.refresh("ann", BROKER, stale, broken)
    assert raised.value.in_doubt
    with pytest.raises(BrokerFault) as raised:
        await impatient.refresh("ann", BROKER, stale, silent)
    assert raised.value.in_doubt
    assert (await renewing.fault(stale)).reason.code is ReasonCode.TOKEN_REVOKED
    assert renewing.broker.requests.total() == 0
    await impatient.close()


async def test_a_missing_grant_is_said_when_it_was_removed_meanwhile(renewing: Renewing) -> None:
    stale = await renewing.stored()

    async def remove() -> None:
        await renewing.two.remove("ann", BROKER)

    renewing.broker.meanwhile = remove
    assert (await renewing.fault(stale)).reason.code is ReasonCode.NO_CREDENTIALS
    assert (await renewing.fault(stale)).reason.code is ReasonCode.NO_CREDENTIALS
    assert await renewing.one.get("ann", BROKER) is None
    assert (await renewing.fault(stale, by=vault_credentials(renewing.database))).kind is FaultKind.FATAL_USER


async def test_tokens_entered_during_a_renewal_win(renewing: Renewing) -> None:
    stale = await renewing.stored()

    async def enter() -> None:
        await renewing.two.put_entered("ann", BROKER, entry("entered"))

    renewing.broker.meanwhile = enter
    assert token(await renewing.refresh(stale)) == "entered-access"
    assert renewing.audit.refreshes == [("superseded", 1)]


async def test_a_refusal_counts_for_nothing_when_the_user_consented_anew_meanwhile(renewing: Renewing) -> None:
    """A new consent ends the old pair at the broker; the renewal that meets this goes on with the newer one."""
    stale = await renewing.stored()

    async def overtaken(credential: Credential) -> IssuedTokens:
        await renewing.two.put_entered("ann", BROKER, entry("consented"))
        raise refused(ReasonCode.TOKEN_REVOKED)

    renewed = await renewing.one.refresh("ann", BROKER, stale, overtaken)
    assert token(renewed) == "consented-access"
    assert renewing.audit.refreshes == [("superseded", 1)]
    assert (await renewing.row())[-1] is None  # the refusal of the old pair is not the new one's


async def test_the_same_tokens_entered_during_a_renewal_do_not_undo_it(renewing: Renewing) -> None:
    stale = await renewing.stored()

    async def enter() -> None:
        await renewing.two.put_entered("ann", BROKER, entry(accountId="7"))

    renewing.broker.meanwhile = enter
    renewed = await renewing.refresh(stale)
    assert (token(renewed), renewed.account_id) == ("access-1", "7")


# ---------------------------------------------------------------- leases


async def test_a_process_waits_for_the_lease_of_one_that_died_and_tries_once_more(renewing: Renewing) -> None:
    stale = await renewing.stored()
    table = GrantTable(renewing.database)
    version = (await renewing.row())[0]
    assert await table.lease(stale.grant_id, version, "dead", 0.5) == 1
    assert await table.lease(stale.grant_id, version, "other", 0.5) is None
    assert token(await renewing.refresh(stale)) == "access-1"
    assert renewing.audit.refreshes == [("ok", 2)]


async def test_no_third_request_is_made_when_two_processes_died(renewing: Renewing) -> None:
    stale = await renewing.stored()
    table = GrantTable(renewing.database)
    version = (await renewing.row())[0]
    assert await table.lease(stale.grant_id, version, "dead", 0.01) == 1
    await asyncio.sleep(0.05)  # the lease runs out, by the clock of the database
    assert await table.lease(stale.grant_id, version, "dead too", 0.3) == 2
    assert (await renewing.fault(stale)).reason.code is ReasonCode.TOKEN_REVOKED
    assert renewing.broker.requests.total() == 0


async def test_a_lease_is_counted_once_when_the_same_owner_asks_again(renewing: Renewing) -> None:
    stale = await renewing.stored()
    table = GrantTable(renewing.database)
    version = (await renewing.row())[0]
    for _ in range(3):
        assert await table.lease(stale.grant_id, version, "me", 30.0) == 1
    await table.release(stale.grant_id, version, "somebody else", unsent=True)
    assert (await renewing.row())[1:3] == ("me", 1)
    await table.release(stale.grant_id, version, "me", unsent=True)
    assert (await renewing.row())[1:3] == (None, 0)


async def test_nothing_is_sent_when_the_process_was_held_up_behind_its_lease(renewing: Renewing) -> None:
    stale = await renewing.stored()
    clock = ManualClock()
    held_up = vault_credentials(renewing.database, renewing.broker, owner="frozen", clock=clock)
    table = held_up._table
    lease = table.lease

    async def slow_lease(*arguments: Any) -> int | None:
        attempt = await lease(*arguments)
        clock.advance(QUICK.lease_s)
        return attempt

    table.lease = slow_lease  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await held_up.refresh("ann", BROKER, stale, renewing.broker.refresh)
    assert renewing.broker.requests.total() == 0
    table.lease = lease  # type: ignore[method-assign]
    await held_up.refresh("ann", BROKER, stale, renewing.broker.refresh)  # its own lease, counted once
    assert renewing.broker.requests.total() == 1
    await held_up.close()


async def test_waiting_for_another_process_ends_when_it_takes_too_long(renewing: Renewing) -> None:
    stale = await renewing.stored()
    await GrantTable(renewing.database).lease(stale.grant_id, (await renewing.row())[0], "slow", 60.0)
    impatient = vault_credentials(renewing.database, renewing.broker, owner="three", times=replace(QUICK, wait_s=0.2))
    with pytest.raises(Unavailable):
        await impatient.refresh("ann", BROKER, stale, renewing.broker.refresh)
    assert renewing.broker.requests.total() == 0
    await impatient.close()


# ---------------------------------------------------------------- the database away


@pytest.fixture
async def own_server(
    postgres_factory: Callable[[], PostgresServer],
) -> AsyncIterator[tuple[PostgresServer, Renewing]]:
    server = postgres_factory()
    database = Database(Secret(server.url()))
    await database.open()
    await migrate(database)
    made = Renewing(database)
    yield server, made
    await made.one.close()
    await made.two.close()
    await database.close()


async def test_nothing_is_sent_when_the_database_is_away(own_server: tuple[PostgresServer, Renewing]) -> None:
    server, renewing = own_server
    stale = await renewing.stored()
    server.kill()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await renewing.refresh(stale)
        with pytest.raises(Unavailable):
            await renewing.one.get("ann", BROKER)
    assert renewing.broker.requests.total() == 0
    server.start()

    async def renewed() -> bool:
        try:
            return token(await renewing.refresh(stale)) == "access-1"
        except Unavailable:
            return False

    await eventually(renewed, within_s=20)
    assert renewing.broker.requests == {"ann-refresh": 1}


async def test_an_issued_pair_is_kept_and_stored_when_the_database_comes_back(
    own_server: tuple[PostgresServer, Renewing],
) -> None:
    server, renewing = own_server
    stale = await renewing.stored()
    issued = asyncio.Event()

    async def cut() -> None:
        await asyncio.to_thread(server.kill)
        issued.set()

    renewing.broker.meanwhile = cut
    refreshing = asyncio.create_task(renewing.refresh(stale))
    await issued.wait()
    with pytest.raises(TimeoutError):  # never handed out before it is committed
        await asyncio.wait_for(asyncio.shield(refreshing), 1.0)
    with pytest.raises(Unavailable):
        await renewing.one.get("ann", BROKER)
    await asyncio.to_thread(server.start)
    with contextlib.suppress(Unavailable):  # the look at the committed pair may fail, the commit does not
        await asyncio.wait_for(refreshing, 20)

    async def stored() -> bool:
        try:
            return token(await renewing.two.get("ann", BROKER)) == "access-1"
        except Unavailable:
            return False

    await eventually(stored, within_s=20)
    assert renewing.broker.requests == {"ann-refresh": 1}
    assert renewing.audit.refreshes == [("ok", 1)]
