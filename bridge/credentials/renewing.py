"""Renewing the token pairs of the vault: one request at a time for each pair, whoever asks in whatever process.

A refresh token works once, and using it ends the old access token, so (DESIGN §10, Open API reference §2.1):
- the right to send it is a lease on the grant's row, committed before the request, with a count of the attempts. Of an
  attempt whose end is unknown (the process died, no answer came) the token may be spent: it is sent once more and then
  never again. Without the database nothing is sent.
- what the broker issued is committed before anybody gets it. While the database is away it is kept in memory and the
  commit is tried again and again; it depends on the stored pair still being the one that was renewed, not on the lease.
- a final refusal is stored and final for every process.
Invariant: at most two requests for one refresh token, and every path ends with a newer pair or an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from bridge.brokers.base import BrokerFault, Credential, FaultKind, IssuedTokens, Reason, ReasonCode
from bridge.credentials.grant_table import MOST_ATTEMPTS, Grant, GrantTable
from bridge.credentials.grants import Refresher, none_stored
from bridge.credentials.sealed import open_secrets, seal_secrets
from bridge.credentials.vault import SealBroken, UnknownKey, Vault
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.telemetry.audit import Action, Audit, Detail
from bridge.telemetry.redaction import REDACTOR
from core.errors import BridgeError, Unavailable
from core.user_key import short_key

log = logging.getLogger(__name__)

_Pair = tuple[str, int]  # grant and version
_REFUSALS = {
    ReasonCode.TOKEN_EXPIRED.value: "The access to the broker has expired and cannot be renewed.",
    ReasonCode.TOKEN_REVOKED.value: "The broker refused to renew the access.",
}
_SPENT = "Renewing the access to the broker was cut off, and the broker may not accept the stored consent again."


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """Seconds. `request`: for the broker's answer (the adapter has closer limits); `lease`: how long nobody else sends,
    longer than a request; `wait`: for another process; polls and repeated commits go from `shortest` to `longest`."""

    request_s: float = 20.0
    lease_s: float = 30.0
    wait_s: float = 60.0
    shortest_s: float = 0.1
    longest_s: float = 1.0
    close_s: float = 2.0


class Renewals:
    """All renewals of one process."""

    def __init__(
        self,
        table: GrantTable,
        vault: Vault,
        *,
        clock: Clock,
        rng: random.Random,
        owner: str,
        audit: Audit,
        times: RenewalTimes,
        on_crash: CrashHandler | None,
    ) -> None:
        self._table = table
        self._vault = vault
        self._clock = clock
        self._rng = rng
        self._owner = owner
        self._audit = audit
        self._times = times
        self._tasks = Tasks("vault", on_crash)
        self._flights: dict[_Pair, asyncio.Task[BridgeError | None]] = {}
        self._unsent: dict[_Pair, str] = {}  # leases that were asked for and with which nothing was sent

    async def renew(self, grant: Grant, stale: Credential, refresher: Refresher) -> None:
        """Let the stored pair become a newer one than `grant` holds; somebody else may do it.

        Raises BrokerFault and Unavailable. Being cancelled does not end a renewal under way.
        """
        pair = (grant.id, grant.version)
        flight = self._flights.get(pair)
        if flight is None:
            flight = self._tasks.start(self._fly(grant, stale, refresher), name=f"renew {grant.broker}")
            self._flights[pair] = flight
            flight.add_done_callback(lambda _: self._flights.pop(pair, None))
        error = await asyncio.shield(flight)
        if error is not None:
            raise error

    async def close(self) -> None:
        """Give renewals under way a moment to be stored, then end them. Never raises."""
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=self._times.close_s)
        for grant_id, version in self._flights:
            log.error("a renewal was cut off by the end", extra={"grant": grant_id, "version": version})
        await self._tasks.close()

    # ------------------------------------------------------------ one renewal

    async def _fly(self, grant: Grant, stale: Credential, refresher: Refresher) -> BridgeError | None:
        """One renewal, to its end. Returns what went wrong, for everybody who waits for it."""
        attempt = 0
        try:
            asked_at, owner, attempt = await self._right_to_send(grant)
            if attempt == 0:
                return None  # somebody else has renewed it
            issued = await self._ask(grant, stale, refresher, owner, asked_at)
            outcome = await self._commit(grant, issued)
        except BrokerFault as fault:
            if attempt and await self._has_moved_on(grant):
                self._tell(grant, "superseded", attempt)
                return None  # the user consented anew, which ended the pair that was refused
            self._tell(grant, fault.reason.code.value, attempt)
            return fault
        except BridgeError as error:
            if attempt:
                self._tell(grant, ReasonCode.INTERNAL_ERROR.value, attempt)
            return error if isinstance(error, Unavailable) else Unavailable(f"credentials cannot be renewed: {error}")
        self._tell(grant, outcome, attempt)
        return None

    async def _right_to_send(self, grant: Grant) -> tuple[float, str, int]:
        """When it was asked for, the lease's owner and the number of the attempt; 0 when there is a newer pair.

        Raises BrokerFault when the pair must not be sent any more, Unavailable when others take too long.
        """
        pair = (grant.id, grant.version)
        deadline = self._clock.monotonic() + self._times.wait_s
        tries = 0
        while True:
            owner = self._unsent.setdefault(pair, f"{self._owner}:{self._rng.getrandbits(64):016x}")
            asked_at = self._clock.monotonic()
            attempt = await self._table.lease(*pair, owner, self._times.lease_s)
            if attempt is not None:
                return asked_at, owner, attempt
            self._unsent.pop(pair, None)
            now = await self._table.by_id(grant.id)
            if now is None or now.sealed is None:
                raise none_stored()
            if now.version != grant.version:
                return asked_at, owner, 0
            if now.refusal is not None:
                raise _final(now.refusal)
            if not now.leased and now.refresh_attempts >= MOST_ATTEMPTS:
                await self._table.refuse(*pair, ReasonCode.TOKEN_REVOKED.value)
                raise BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.TOKEN_REVOKED, _SPENT))
            if self._clock.monotonic() >= deadline:
                raise Unavailable("another process has been renewing these credentials for too long")
            await self._pause(tries)
            tries += 1

    async def _ask(
        self, grant: Grant, stale: Credential, refresher: Refresher, owner: str, asked_at: float
    ) -> IssuedTokens:
        """The one request of this attempt, and what its end means for the lease."""
        pair = (grant.id, grant.version)
        if self._clock.monotonic() - asked_at > self._times.lease_s - self._times.request_s:
            raise Unavailable("this process was held up; the right to renew would not last")  # the lease is ours still
        self._unsent.pop(pair, None)
        try:
            async with asyncio.timeout(self._times.request_s):
                issued = await refresher(stale)
        except BrokerFault as fault:
            await self._end_lease(grant, owner, fault)
            raise
        except Exception as error:  # whatever an adapter trips over, the token may be spent
            log.error("a renewal failed unexpectedly", extra=_who(grant), exc_info=error)
            unclear = _no_answer()
            await self._end_lease(grant, owner, unclear)
            raise unclear from error
        REDACTOR.register(*issued.secrets.values())
        return issued

    async def _has_moved_on(self, grant: Grant) -> bool:
        """Whether another pair is stored by now."""
        try:
            now = await self._table.by_id(grant.id)
        except BridgeError:
            return False
        return now is not None and now.sealed is not None and now.version != grant.version

    async def _end_lease(self, grant: Grant, owner: str, fault: BrokerFault) -> None:
        """When the database is away the lease runs out by itself, and the attempt counts."""
        try:
            if fault.kind is FaultKind.FATAL_USER:
                await self._table.refuse(grant.id, grant.version, fault.reason.code.value)
            else:
                await self._table.release(grant.id, grant.version, owner, unsent=not fault.in_doubt)
        except BridgeError as error:
            log.warning("the end of a renewal could not be stored", extra={**_who(grant), "error": str(error)})

    async def _commit(self, grant: Grant, issued: IssuedTokens) -> str:
        """Store the new pair, however long it takes: it exists nowhere else. Returns the outcome for the audit log."""
        tries = 0
        while True:
            try:
                if await self._store(grant, issued):
                    return "ok"
                log.warning("renewed credentials are dropped: others were stored meanwhile", extra=_who(grant))
                return "superseded"
            except BridgeError as error:
                level = logging.WARNING if tries else logging.ERROR
                log.log(level, "renewed credentials are not stored yet: %s", error, extra=_who(grant))
            await self._pause(tries)
            tries += 1

    async def _store(self, grant: Grant, issued: IssuedTokens) -> bool:
        """One try to commit; False when the row has moved on to another pair."""
        async with self._table.held_by_id(grant.id) as held:
            if held is None or held.row.sealed is None:
                return False
            row = held.row  # its user's key may have changed meanwhile
            if row.version != grant.version:
                return self._holds(row, issued)  # a commit that seemed to fail may have arrived after all
            sealed = seal_secrets(self._vault, row.user_key, row.broker, issued.secrets)
            await held.new_pair(sealed, self._vault.sealing_key_id, issued.expires_in_s)
            return True

    def _holds(self, row: Grant, issued: IssuedTokens) -> bool:
        try:
            return open_secrets(self._vault, row) == issued.secrets
        except (SealBroken, UnknownKey):
            return False

    async def _pause(self, tries: int) -> None:
        longest = min(self._times.longest_s, self._times.shortest_s * 2.0 ** min(tries, 16))
        await asyncio.sleep(longest * (0.5 + self._rng.random() / 2))

    def _tell(self, grant: Grant, outcome: str, attempt: int) -> None:
        detail: Detail = {"broker": grant.broker, "attempt": attempt}
        self._audit.record(Action.REFRESH, user_key=grant.user_key, actor="bridge", outcome=outcome, detail=detail)


def _final(code: str) -> BrokerFault:
    """The stored refusal of a pair, for those who come later."""
    known = ReasonCode.TOKEN_EXPIRED if code == ReasonCode.TOKEN_EXPIRED.value else ReasonCode.TOKEN_REVOKED
    message = f"{_REFUSALS[known.value]} Please connect the broker again."
    return BrokerFault(FaultKind.FATAL_USER, Reason(known, message))


def _no_answer() -> BrokerFault:
    reason = Reason(ReasonCode.BROKER_ERROR, "The broker gave no usable answer to the renewal of the access.")
    return BrokerFault(FaultKind.TRANSIENT, reason, in_doubt=True)


def _who(grant: Grant) -> dict[str, str]:
    return {"user": short_key(grant.user_key), "broker": grant.broker}
