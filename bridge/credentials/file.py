"""Credentials from one JSON file, for development and tests (DESIGN §10).

    {"users": {"<user id>": {"<broker>": {… what that broker's reader understands …}}}}

Read again whenever it changed; one malformed entry hurts that entry only. Refreshed secrets are on disk before anybody
uses them. Invariants: one refresh at a time per token pair, whoever shares it; a pair that was issued is never thrown
away: when it cannot be written it is kept, and written before anything else is tried. User ids are never logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bridge.brokers.base import BrokerAccount, BrokerFault, Credential, FaultKind, Reason, ReasonCode
from bridge.credentials.disk import FileRead, check_writable, read_if_changed, replace_file
from bridge.credentials.grants import Refresher, none_stored
from bridge.credentials.parsing import Entries, parse, replace_secrets
from bridge.runtime.tasks import CrashHandler, Tasks
from core.errors import BridgeError, InvalidInput, Unavailable
from core.secret import Secret
from core.user_key import UserKeyScheme, normalise_user_id

log = logging.getLogger(__name__)

REFRESH_DEADLINE_S = 60.0  # the adapter has a closer one; a refresh given up too early can cost the user's consent
CLOSE_WAIT_S = 2.0

CredentialReader = Callable[[str, Mapping[str, object]], Credential]
_Pair = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Content:
    """What the file said when last read well, and the credentials made of it since."""

    read: FileRead
    entries: Entries
    made: dict[tuple[str, str], Credential] = field(default_factory=dict)


class CredentialsFile:
    """A `CredentialSource`. `readers`: each broker's `read_credential`, by broker name."""

    def __init__(
        self, path: Path, *, readers: Mapping[str, CredentialReader], on_crash: CrashHandler | None = None
    ) -> None:
        self._path = path
        self._readers = readers
        self._tasks = Tasks("credentials", on_crash)
        self._lock = asyncio.Lock()  # around every access to the file
        self._coming: asyncio.Future[_Content | BridgeError | None] | None = None  # a look that has not begun
        self._content: _Content | None = None
        self._refused: FileRead | None = None  # a version of the file that could not be used
        self._flights: dict[_Pair, asyncio.Task[Exception | None]] = {}
        self._unwritten: dict[_Pair, Mapping[str, Secret]] = {}

    async def get(self, user_id: str, broker: str) -> Credential | None:
        """The stored credential, or None.

        Raises InvalidInput (path of the field, such as `users.user-1.broker.accessToken`), Unavailable when the file
        cannot be read. While a new version of the file is unusable as a whole, the last good one stays in force.
        """
        user_id = normalise_user_id(user_id)
        content = await self._current()
        made = content.made.get((user_id, broker))
        if made is not None:
            return made
        entry = content.entries.entry(user_id, broker)
        reader = self._readers.get(broker)
        if entry is None or reader is None:
            return None
        path = f"users.{user_id}.{broker}"
        try:
            credential = reader(_grant_id(user_id, broker), entry)
        except InvalidInput as error:
            raise InvalidInput(str(error), field=f"{path}.{error.field}" if error.field else path) from error
        content.made[user_id, broker] = credential
        return credential

    async def refresh(self, user_id: str, broker: str, stale: Credential, refresher: Refresher) -> Credential:
        """A credential newer than `stale`; see `CredentialSource.refresh`. Being cancelled does not end the refresh."""
        current = await self._stored(user_id, broker)
        if current.secrets != stale.secrets:
            return current
        pair = _pair(broker, stale)
        flight = self._flights.get(pair)
        if flight is None:
            flight = self._tasks.start(self._renew(pair, broker, stale, refresher), name=f"refresh {broker}")
            self._flights[pair] = flight
            flight.add_done_callback(lambda _: self._flights.pop(pair, None))
        error = await asyncio.shield(flight)
        if error is not None:
            raise error
        renewed = await self._stored(user_id, broker)
        if renewed.secrets == stale.secrets:
            raise Unavailable("the renewed credentials did not reach the credentials file")
        return renewed

    async def keep_accounts(
        self, user_id: str, broker: str, credential: Credential, accounts: Sequence[BrokerAccount]
    ) -> None:
        """The file holds what a person has written into it, and no such list."""

    async def close(self) -> None:
        """Give refreshes under way a moment to be written, then end them."""
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=CLOSE_WAIT_S)
        await self._tasks.close()

    async def _stored(self, user_id: str, broker: str) -> Credential:
        credential = await self.get(user_id, broker)
        if credential is None:
            raise none_stored()
        return credential

    # ------------------------------------------------------------ reading

    async def _current(self) -> _Content:
        """One look at the file serves everybody who asked before it began: after a mass cut that is thousands, and they
        must not wait for one another either."""
        found: _Content | BridgeError | None = None
        while found is None:  # who looked for others may have been cancelled
            coming = self._coming
            found = await (self._look_for_all() if coming is None else asyncio.shield(coming))
        if isinstance(found, BridgeError):
            raise found
        return found

    async def _look_for_all(self) -> _Content | BridgeError | None:
        """Look once the file is free, also for whoever asks until then."""
        found: _Content | BridgeError | None = None
        coming = self._coming = asyncio.get_running_loop().create_future()
        try:
            async with self._lock:
                self._coming = None  # who asks from now on may know of a newer file
                found = await asyncio.to_thread(self._look)
        finally:
            if self._coming is coming:
                self._coming = None
            coming.set_result(found)
        return found

    def _look(self) -> _Content | BridgeError:
        try:
            return self._load()
        except BridgeError as error:
            return error

    def _load(self) -> _Content:
        """In a thread: read the file if it changed."""
        known = self._content
        try:
            read = read_if_changed(self._path, known.read if known is not None else None)
        except OSError as error:
            raise Unavailable(f"the credentials file cannot be read: {error.strerror}") from error
        if known is not None and read == known.read:
            return known
        if self._refused is None or read != self._refused:
            try:
                self._content = known = _Content(replace(read, data=b""), parse(read.data))
                self._refused = None
                return known
            except InvalidInput as error:
                self._refused = replace(read, data=b"")
                log.error("the credentials file cannot be used: %s", error, extra={"field": error.field})
        if known is None:
            parse(read.data)  # raises again, for this caller
            raise Unavailable("the credentials file changed while it was read")
        return known

    # ------------------------------------------------------------ refreshing

    async def _renew(self, pair: _Pair, broker: str, stale: Credential, refresher: Refresher) -> Exception | None:
        """One refresh, to its end. Returns what went wrong, for everybody who waits for it."""
        try:
            if pair not in self._unwritten:
                if not await self._is_writable():
                    return _cannot_refresh()
                async with asyncio.timeout(REFRESH_DEADLINE_S):
                    self._unwritten[pair] = (await refresher(stale)).secrets
            async with self._lock:
                await asyncio.to_thread(self._commit, broker, stale, self._unwritten[pair])
            del self._unwritten[pair]
        except OSError as error:
            if isinstance(error, TimeoutError):
                return Unavailable("the broker did not answer a token refresh in time")
            log.error("renewed credentials could not be written; they are kept in memory", exc_info=error)
            return Unavailable(f"the credentials file cannot be written: {error.strerror}")
        except Exception as error:  # noqa: BLE001  handed to everybody who waits; a flight must not end as a crash
            return error
        return None

    async def _is_writable(self) -> bool:
        try:
            async with self._lock:
                await asyncio.to_thread(check_writable, self._path)
        except OSError as error:
            log.error("credentials cannot be refreshed: the file is not writable: %s", error.strerror)
            return False
        return True

    def _commit(self, broker: str, stale: Credential, renewed: Mapping[str, Secret]) -> None:
        """In a thread: replace the old secrets by the new ones, in every entry that holds them."""
        data = replace_secrets(read_if_changed(self._path, None).data, broker, stale.secrets, renewed)
        if data is not None:
            replace_file(self._path, data)


def _grant_id(user_id: str, broker: str) -> str:
    return f"file:{broker}:{UserKeyScheme().keys(user_id).canonical[:16]}"


def _pair(broker: str, credential: Credential) -> _Pair:
    prints = sorted((name, secret.fingerprint()) for name, secret in credential.secrets.items())
    return (broker, tuple(prints))


def _cannot_refresh() -> BrokerFault:
    message = "The access to the broker has expired and cannot be renewed here; connect the broker again."
    return BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.TOKEN_EXPIRED, message))
