"""The credentials file: strict reading, refreshes that are written before they are used, and crashes at every step."""

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, IssuedTokens, Reason, ReasonCode
from bridge.credentials import disk
from bridge.credentials.disk import FileRead, read_if_changed
from bridge.credentials.file import CredentialsFile
from bridge.credentials.parsing import parse, replace_secrets
from core.errors import InvalidInput, Unavailable
from core.secret import Secret

SECRETS = ("accessToken", "refreshToken")


def read_entry(grant_id: str, entry: Mapping[str, object]) -> Credential:
    """A broker's reader, as an adapter would write it."""
    for name, value in entry.items():
        if name not in (*SECRETS, "environment", "accountId"):
            raise InvalidInput("unknown field", field=name)
        if not isinstance(value, str):
            raise InvalidInput("text is expected", field=name)
    if "accessToken" not in entry:
        raise InvalidInput("is missing", field="accessToken")
    secrets = {name: Secret(str(entry[name])) for name in SECRETS if name in entry}
    environment = Environment(str(entry.get("environment", "demo")))
    account_id = entry.get("accountId")
    return Credential(grant_id, environment, secrets, str(account_id) if account_id else None)


def entry(user: str = "user-1", **changes: Any) -> dict[str, Any]:
    return {"accessToken": f"{user}-a", "refreshToken": f"{user}-r", "environment": "demo", **changes}


class World:
    """One file in its own folder, and a token endpoint that refuses a spent refresh token."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "credentials.json"
        self.users: dict[str, Any] = {"user-1": {"broker": entry()}, "user-2": {"broker": entry("user-2")}}
        self.write()
        self.file = self.open()
        self.spent: list[str] = []
        self.running = self.most_running = 0
        self.fault: BrokerFault | None = None
        self.in_refresh: Callable[[], None] | None = None

    def open(self) -> CredentialsFile:
        return CredentialsFile(self.path, readers={"broker": read_entry})

    def write(self, text: str | bytes | None = None) -> None:
        data = json.dumps({"users": self.users}, indent=2) if text is None else text
        temporary = self.path.with_suffix(".new")
        temporary.write_bytes(data if isinstance(data, bytes) else data.encode())
        temporary.chmod(0o600)
        temporary.replace(self.path)

    def on_disk(self, user: str = "user-1") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_bytes())["users"][user]["broker"]
        return found

    async def refresher(self, stale: Credential) -> IssuedTokens:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0.01)
            if self.fault is not None:
                raise self.fault
            token = stale.secrets["refreshToken"].reveal()
            assert token not in self.spent, "a refresh token was used twice"
            self.spent.append(token)
            number = len(self.spent)
            if self.in_refresh is not None:
                self.in_refresh()
            await asyncio.sleep(0.01)
            return IssuedTokens({"accessToken": Secret(f"new-a{number}"), "refreshToken": Secret(f"new-r{number}")})
        finally:
            self.running -= 1

    async def get(self, user: str = "user-1") -> Credential:
        found = await self.file.get(user, "broker")
        assert found is not None
        return found

    async def refresh(self, stale: Credential, user: str = "user-1") -> Credential:
        return await self.file.refresh(user, "broker", stale, self.refresher)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.file.close()
    assert len(made.file._tasks) == 0


def token(credential: Credential | None) -> str:
    assert credential is not None
    return credential.secrets["accessToken"].reveal()


# ---------------------------------------------------------------- reading


async def test_entry_is_read_as_the_brokers_reader_says(world: World) -> None:
    world.users["user-1"]["broker"]["accountId"] = "12345"
    world.write()
    found = await world.get()
    assert (token(found), found.account_id, found.environment) == ("user-1-a", "12345", Environment.DEMO)
    assert "user-1-a" not in repr(found)
    assert await world.get() is found


async def test_grant_id_is_stable_and_names_no_user(world: World) -> None:
    first = (await world.get()).grant_id
    assert first == (await world.refresh(await world.get())).grant_id
    assert first != (await world.get("user-2")).grant_id
    assert "user-1" not in first


async def test_absent_user_broker_and_unread_broker_are_none(world: World) -> None:
    world.users["user-1"]["elsewhere"] = {"whatever": 1}
    world.write()
    assert await world.file.get("nobody", "broker") is None
    assert await world.file.get("user-1", "elsewhere") is None
    assert await world.file.get("user-2", "elsewhere") is None


async def test_user_ids_follow_the_one_rule(world: World) -> None:
    world.users = {" caf\u0065\u0301 ": {"broker": entry("x")}}
    world.write()
    assert token(await world.file.get("caf\u00e9", "broker")) == "x-a"


async def test_id_spelt_twice_is_refused_for_that_user_only(world: World) -> None:
    world.users["user-1 "] = {"broker": entry("twin")}
    world.write()
    with pytest.raises(InvalidInput) as refusal:
        await world.get()
    assert refusal.value.field == "users.user-1"
    assert token(await world.get("user-2")) == "user-2-a"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"broker": entry(accessToken=5)}, "users.user-1.broker.accessToken"),
        ({"broker": {"refreshToken": "x"}}, "users.user-1.broker.accessToken"),
        ({"broker": entry(extra="x")}, "users.user-1.broker.extra"),
        ({"broker": None}, "users.user-1.broker"),
        ({"broker": [1]}, "users.user-1.broker"),
        (None, "users.user-1"),
        ("text", "users.user-1"),
    ],
)
async def test_malformed_entry_is_refused_by_path_and_hurts_nobody_else(world: World, value: Any, field: str) -> None:
    world.users["user-1"] = value
    world.write()
    with pytest.raises(InvalidInput) as refusal:
        await world.file.get("user-1", "broker")
    assert refusal.value.field == field
    assert "user-1-a" not in str(refusal.value)
    assert token(await world.get("user-2")) == "user-2-a"
    world.users["user-1"] = {"broker": entry()}
    world.write()
    assert token(await world.get()) == "user-1-a"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", None),
        ("{", None),
        ('{"users": {"user-1": {"broker": {"accessToken": "canary', None),
        ("[]", None),
        ("null", None),
        ("{}", "users"),
        ('{"users": []}', "users"),
        ('{"users": {}, "extra": 1}', "extra"),
        (b"\xff\xfe", None),
    ],
)
async def test_file_that_is_unusable_as_a_whole_is_refused_by_path(
    world: World, text: str | bytes, field: str | None
) -> None:
    world.write(text)
    for _ in range(2):
        with pytest.raises(InvalidInput) as refusal:
            await world.get()
        assert refusal.value.field == field
        assert "canary" not in str(refusal.value)


async def test_last_good_version_stays_in_force_while_the_file_is_being_edited(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.get()
    world.write("{ half of it")
    for _ in range(5):
        assert token(await world.get()) == "user-1-a"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    world.users["user-1"] = {"broker": entry("changed")}
    world.write()
    assert token(await world.get()) == "changed-a"


async def test_file_larger_than_the_cap_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.credentials.disk.SIZE_CAP", 1000)
    monkeypatch.setattr("bridge.credentials.parsing.SIZE_CAP", 1000)
    world.write(json.dumps({"users": {}}).ljust(1000))
    assert await world.file.get("user-1", "broker") is None
    world.write(json.dumps({"users": {}}).ljust(1001))
    with pytest.raises(InvalidInput, match="larger than"):
        await world.open().get("user-1", "broker")
    assert disk.SIZE_CAP == 1000


async def test_missing_file_is_unavailable_and_comes_back(world: World) -> None:
    world.path.unlink()
    with pytest.raises(Unavailable):
        await world.get()
    world.write()
    assert token(await world.get()) == "user-1-a"
    world.path.unlink()
    with pytest.raises(Unavailable):
        await world.get()


async def test_pipe_and_folder_are_unavailable_and_keep_nobody_waiting(world: World) -> None:
    world.path.unlink()
    os.mkfifo(world.path)
    with pytest.raises(Unavailable, match="not an ordinary file"):
        await world.get()
    world.path.unlink()
    world.path.mkdir()
    with pytest.raises(Unavailable, match="not an ordinary file"):
        await world.get()
    world.path.rmdir()
    world.write()
    assert token(await world.get()) == "user-1-a"


async def test_change_in_place_is_seen(world: World) -> None:
    await world.get()
    changed = world.path.read_text().replace("user-1-a", "user-1-b")
    with world.path.open("r+") as file:
        file.write(changed)
    os.utime(world.path, ns=(1, 1))
    assert token(await world.get()) == "user-1-b"


async def test_the_file_is_looked_at_a_few_times_when_hundreds_ask_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []

    def counted(path: Path, known: FileRead | None) -> FileRead:
        looks.append(path)
        return read_if_changed(path, known)

    monkeypatch.setattr("bridge.credentials.file.read_if_changed", counted)
    assert {token(each) for each in await asyncio.gather(*(world.get() for _ in range(300)))} == {"user-1-a"}
    assert len(looks) <= 2


async def test_who_asks_during_a_look_is_told_what_was_written_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def slow(path: Path, known: FileRead | None) -> FileRead:
        found = read_if_changed(path, known)
        looking.set()
        assert go_on.wait(10)
        return found

    monkeypatch.setattr("bridge.credentials.file.read_if_changed", slow)
    early = asyncio.create_task(world.get())
    await asyncio.to_thread(looking.wait, 10)
    world.users["user-1"] = {"broker": entry("newer")}
    world.write()
    cancelled = asyncio.create_task(world.get())  # would have looked for the other one as well
    late = asyncio.create_task(world.get())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert token(await early) == "user-1-a"
    assert token(await late) == "newer-a"


async def test_nobody_waits_for_others_when_hundreds_ask_at_once(world: World) -> None:
    """Each may take its turn of the loop, and a turn may be long where thousands log in: all are told in a few."""
    await world.get()
    asked = [asyncio.create_task(world.get()) for _ in range(300)]
    turns, left = 0, len(asked)
    while left:
        await asyncio.sleep(0)
        waiting = sum(not task.done() for task in asked)
        turns += waiting < left  # turns in which nobody is told wait for the file
        left = waiting
    assert turns < 10
    assert {token(await task) for task in asked} == {"user-1-a"}


async def test_unchanged_file_is_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.get()
    monkeypatch.setattr("bridge.credentials.file.parse", lambda data: pytest.fail("read again"))
    for _ in range(10):
        await world.get()


async def test_warning_is_given_once_when_everybody_can_read_the_file(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.get()
    assert caplog.records == []
    world.path.chmod(0o644)
    for _ in range(3):
        await world.get()
        os.utime(world.path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# ---------------------------------------------------------------- refreshing


async def test_new_pair_is_on_disk_before_it_is_returned(world: World) -> None:
    stale = await world.get()
    renewed = await world.refresh(stale)
    assert token(renewed) == "new-a1"
    assert world.on_disk() == {**entry(), "accessToken": "new-a1", "refreshToken": "new-r1"}
    assert token(await world.open().get("user-1", "broker")) == "new-a1"
    assert token(await world.get("user-2")) == "user-2-a"


async def test_rest_of_the_file_survives_a_refresh(world: World) -> None:
    world.users = {
        "zz": {"elsewhere": {"keyId": "k", "nested": {"a": [1, None]}}},
        "user-1": {"broker": entry(), "elsewhere": {"x": 1}},
        "broken": None,
    }
    world.write()
    world.path.chmod(0o640)
    await world.refresh(await world.get())
    after = json.loads(world.path.read_bytes())["users"]
    assert list(after) == ["zz", "user-1", "broken"]
    assert after["zz"] == world.users["zz"]
    assert after["user-1"]["elsewhere"] == {"x": 1}
    assert world.path.stat().st_mode & 0o777 == 0o640
    assert world.path.read_bytes().count(b"\n") > 10  # still laid out for people
    assert [path.name for path in world.path.parent.iterdir()] == ["credentials.json"]


async def test_link_to_the_file_stays_a_link(world: World, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(world.path)
    file = CredentialsFile(link, readers={"broker": read_entry})
    stale = await file.get("user-1", "broker")
    assert stale is not None
    await file.refresh("user-1", "broker", stale, world.refresher)
    assert link.is_symlink()
    assert world.on_disk()["accessToken"] == "new-a1"
    await file.close()


async def test_fifty_callers_share_one_refresh(world: World) -> None:
    stale = await world.get()
    renewed = await asyncio.gather(*(world.refresh(stale) for _ in range(50)))
    assert {token(each) for each in renewed} == {"new-a1"}
    assert world.spent == ["user-1-r"]


async def test_stale_credential_gets_the_newer_one_without_a_refresh(world: World) -> None:
    stale = await world.get()
    await world.refresh(stale)
    assert token(await world.refresh(stale)) == "new-a1"
    assert world.spent == ["user-1-r"]


async def test_pair_replaced_by_somebody_else_is_taken_without_a_refresh(world: World) -> None:
    stale = await world.get()
    world.users["user-1"]["broker"] = entry("consented-again")
    world.write()
    assert token(await world.refresh(stale)) == "consented-again-a"
    assert world.spent == []


async def test_users_who_share_a_consent_share_its_refresh(world: World) -> None:
    world.users["user-2"]["broker"] = entry()
    world.write()
    one, two = await world.get("user-1"), await world.get("user-2")
    renewed = await asyncio.gather(world.refresh(one, "user-1"), world.refresh(two, "user-2"))
    assert {token(each) for each in renewed} == {"new-a1"}
    assert world.spent == ["user-1-r"]
    assert world.on_disk("user-2")["refreshToken"] == "new-r1"


async def test_refreshes_of_different_grants_run_together_and_lose_nothing(world: World) -> None:
    users = [f"user-{number}" for number in range(20)]
    world.users = {user: {"broker": entry(user)} for user in users}
    world.write()
    stale = {user: await world.get(user) for user in users}
    await asyncio.gather(*(world.refresh(stale[user], user) for user in users))
    assert world.most_running > 5
    on_disk = {world.on_disk(user)["refreshToken"] for user in users}
    assert on_disk == {f"new-r{number}" for number in range(1, 21)}


async def test_cancelled_caller_does_not_end_the_refresh(world: World) -> None:
    stale = await world.get()
    caller = asyncio.create_task(world.refresh(stale))
    while not world.spent:  # from here on, giving up would cost the user's consent
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert token(await world.refresh(stale)) == "new-a1"
    assert world.on_disk()["accessToken"] == "new-a1"


async def test_closing_lets_a_refresh_be_written(world: World) -> None:
    stale = await world.get()
    caller = asyncio.create_task(world.refresh(stale))
    while not world.running:
        await asyncio.sleep(0)
    await world.file.close()
    assert world.on_disk()["accessToken"] == "new-a1"
    assert token(await caller) == "new-a1"


async def test_refusal_reaches_every_caller_and_changes_nothing(world: World) -> None:
    before = world.path.read_bytes()
    stale = await world.get()
    world.fault = BrokerFault(FaultKind.FATAL_USER, _reason(ReasonCode.TOKEN_REVOKED))
    answers = await asyncio.gather(*(world.refresh(stale) for _ in range(5)), return_exceptions=True)
    assert answers == [world.fault] * 5
    assert world.path.read_bytes() == before
    world.fault = None
    assert token(await world.refresh(stale)) == "new-a1"


async def test_mistake_in_a_refresher_reaches_the_caller_and_is_no_crash(world: World) -> None:
    def mistake() -> None:
        world.in_refresh = None
        raise ZeroDivisionError

    stale = await world.get()
    world.in_refresh = mistake
    with pytest.raises(ZeroDivisionError):
        await world.refresh(stale)
    assert world.file._tasks.crashes == 0


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_nothing_is_refreshed_when_it_could_not_be_written(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = await world.get()
    if what == "file":
        world.path.chmod(0o400)
    else:
        monkeypatch.setattr(disk, "_create", _no_room)
    with pytest.raises(BrokerFault) as refusal:
        await world.refresh(stale)
    assert (refusal.value.kind, refusal.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_EXPIRED)
    assert world.spent == []


async def test_user_who_is_gone_from_the_file_is_told(world: World) -> None:
    stale = await world.get()
    del world.users["user-1"]
    world.write()
    with pytest.raises(BrokerFault) as refusal:
        await world.refresh(stale)
    assert refusal.value.reason.code is ReasonCode.NO_CREDENTIALS


# ---------------------------------------------------------------- crashes


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", ["fdopen", "fchmod", "fsync", "replace"])
async def test_file_is_whole_and_usable_after_a_crash_at_any_step(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dying before the rename leaves the old pair and perhaps a temporary file; the next run works over it."""
    before = world.path.read_bytes()

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "replace":
            patch.setattr(Path, "replace", die)
        else:
            patch.setattr(os, step, die)
        with pytest.raises(Killed):
            disk.replace_file(world.path, b'{"users": {}}')
    assert world.path.read_bytes() == before
    left = [path for path in world.path.parent.iterdir() if path != world.path]
    assert len(left) == 1
    assert left[0].stat().st_mode & 0o077 == 0  # what is left behind is nobody else's to read
    restarted = world.open()
    assert token(await restarted.get("user-1", "broker")) == "user-1-a"
    stale = await restarted.get("user-1", "broker")
    assert stale is not None
    await restarted.refresh("user-1", "broker", stale, world.refresher)
    assert world.on_disk()["accessToken"] == "new-a1"
    assert list(world.path.parent.iterdir()) == [world.path]
    await restarted.close()


async def test_new_pair_holds_after_a_crash_behind_the_rename(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = 0
    fsync = os.fsync

    def die_at_the_folder(number: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 2:
            raise Killed
        fsync(number)

    monkeypatch.setattr(os, "fsync", die_at_the_folder)
    world.users["user-1"]["broker"] = entry("after")
    with pytest.raises(Killed):
        disk.replace_file(world.path, json.dumps({"users": world.users}).encode())
    assert token(await world.open().get("user-1", "broker")) == "after-a"


async def test_content_is_synced_before_the_rename_and_the_folder_after(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), replace(self, to))[1])
    disk.replace_file(world.path, b"{}")
    assert steps == ["sync", "rename", "sync"]


async def test_pair_that_could_not_be_written_is_kept_and_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the broker has answered: the spent token is never shown again, the new one not lost."""
    stale = await world.get()
    world.in_refresh = lambda: monkeypatch.setattr(disk, "_create", _no_room)
    with pytest.raises(Unavailable):
        await world.refresh(stale)
    assert token(await world.get()) == "user-1-a"  # not used before it is on disk
    with pytest.raises(Unavailable):
        await world.refresh(stale)
    monkeypatch.undo()
    assert token(await world.refresh(stale)) == "new-a1"
    assert world.spent == ["user-1-r"]
    assert world.on_disk()["refreshToken"] == "new-r1"


async def test_failed_write_leaves_no_temporary_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.replace_file(world.path, b"{}")
    assert list(world.path.parent.iterdir()) == [world.path]


async def test_entry_consented_anew_during_a_refresh_wins(world: World) -> None:
    stale = await world.get()

    def consent() -> None:
        world.users["user-1"]["broker"] = entry("consented-again")
        world.write()

    world.in_refresh = consent
    assert token(await world.refresh(stale)) == "consented-again-a"
    assert world.on_disk()["refreshToken"] == "consented-again-r"


# ---------------------------------------------------------------- properties

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4), st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_replacing_secrets_changes_them_and_nothing_else(users: dict[str, Any], indented: bool) -> None:
    users = {**users, "me": {"broker": entry("me", accountId="7"), "other": {"accessToken": "me-a"}}}
    data = json.dumps({"users": users}, indent=2 if indented else None).encode()
    stale = {"accessToken": Secret("me-a"), "refreshToken": Secret("me-r")}
    renewed = {"accessToken": Secret("n-a"), "refreshToken": Secret("n-r")}
    after = replace_secrets(data, "broker", stale, renewed)
    assert after is not None
    expected = json.loads(data)
    expected["users"]["me"]["broker"].update(accessToken="n-a", refreshToken="n-r")
    assert json.loads(after) == expected
    assert replace_secrets(after, "broker", stale, renewed) is None
    assert (after.count(b"\n") > 1) is indented


@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        entries = parse(data)
    except InvalidInput:
        return
    for user in entries.users:
        with contextlib.suppress(InvalidInput):
            assert isinstance(entries.entry(user, "broker"), dict | None)


def _reason(code: ReasonCode) -> Any:

    return Reason(code, "scripted")


def _no_room(path: Path) -> int:
    raise OSError(28, "No space left on device")
