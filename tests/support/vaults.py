"""A vault on a real database, and a broker whose refresh tokens work once and who counts every request."""

import asyncio
import base64
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from bridge.brokers.base import (
    Broker,
    BrokerFault,
    Credential,
    Environment,
    FaultKind,
    IssuedTokens,
    Reason,
    ReasonCode,
)
from bridge.brokers.ctrader import credential as reading
from bridge.config_values import TokenKey
from bridge.credentials.renewing import RenewalTimes
from bridge.credentials.vault import Vault
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.database import Database
from bridge.runtime.clock import Clock, SystemClock
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.canaries import plant

BROKER = "broker"
QUICK = RenewalTimes(request_s=2.0, lease_s=3.0, wait_s=10.0, shortest_s=0.01, longest_s=0.1, close_s=0.5)


def sealing_key(key_id: str = "k1") -> TokenKey:
    """The key of that id, the same each time."""
    key = base64.b64encode(hashlib.sha256(key_id.encode()).digest()).decode()
    plant(key)
    return TokenKey(key_id, Secret(key))


def vault_of(*key_ids: str) -> Vault:
    return Vault([sealing_key(each) for each in key_ids or ("k1",)])


def entry(user: str = "ann", **changes: Any) -> dict[str, Any]:
    tokens = {"accessToken": f"{user}-access", "refreshToken": f"{user}-refresh"}
    plant(*tokens.values())
    return {**tokens, "environment": "demo", **changes}


def token(credential: Credential | None) -> str:
    assert credential is not None
    return credential.secrets["accessToken"].reveal()


def refused(code: ReasonCode = ReasonCode.TOKEN_REVOKED) -> BrokerFault:
    return BrokerFault(FaultKind.FATAL_USER, Reason(code, "refused"), broker_code="ACCESS_DENIED")


def no_answer() -> BrokerFault:
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_ERROR, "silence"), in_doubt=True)


def unreachable() -> BrokerFault:
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_UNREACHABLE, "not reached"))


class TokenBroker:
    """The token side of a broker. `faults`: raised by the next refreshes, one each; `meanwhile`: awaited in each one
    after the token is spent. Entries and settings rows are read as the real adapter reads them."""

    name = BROKER

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.spent: set[str] = set()
        self.faults: list[BrokerFault] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def read_credential(self, grant_id: str, given: Mapping[str, object]) -> Credential:
        return reading.read(grant_id, given)

    def settings_entry(self, value: Mapping[str, object]) -> Mapping[str, object]:
        return reading.entry_of_settings(value)

    async def refresh(self, credential: Credential) -> IssuedTokens:
        sent = credential.secrets["refreshToken"].reveal()
        self.requests[sent] += 1
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        if sent in self.spent:
            raise refused()
        self.spent.add(sent)
        number = len(self.spent)
        if self.meanwhile is not None:
            await self.meanwhile()
        issued = {"accessToken": Secret(f"access-{number}"), "refreshToken": Secret(f"refresh-{number}")}
        return IssuedTokens(issued, expires_in_s=3600.0)


def vault_credentials(
    database: Database,
    broker: TokenBroker | None = None,
    *,
    vault: Vault | None = None,
    user_keys: UserKeyScheme | None = None,
    owner: str = "one",
    times: RenewalTimes = QUICK,
    clock: Clock | None = None,
    **more: Any,
) -> VaultCredentials:
    """A source like that of a process. Close it."""
    return VaultCredentials(
        database,
        vault or vault_of(),
        brokers={BROKER: cast(Broker, broker or TokenBroker())},
        user_keys=user_keys or UserKeyScheme(),
        clock=clock or SystemClock(),
        rng=random.Random(owner),
        owner=owner,
        times=times,
        **more,
    )


def environment(credential: Credential | None) -> Environment:
    assert credential is not None
    return credential.environment
