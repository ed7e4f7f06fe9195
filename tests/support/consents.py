"""Connecting with stand-ins at its edges: a scripted broker, a store of grants in memory, browsers with cookies.

The table of consents, the sealing and the flow are the real ones.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bridge.brokers.base import BrokerAccount, ConsentScope, Credential, Environment, IssuedTokens
from bridge.config_values import TokenKey
from bridge.credentials.connect import Connect
from bridge.credentials.consents import ConsentTable
from bridge.credentials.vault import Vault
from bridge.credentials.views import Connected
from bridge.db.database import Database
from bridge.runtime.clock import ManualClock
from bridge.telemetry.audit import Action
from core.errors import Unavailable
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.fake_broker import FakeBroker

BRIDGE = "https://bridge.example/base"
APP = "https://app.example.com/settings"
ACCOUNTS = [BrokerAccount("1", Environment.DEMO, "501", "Sim"), BrokerAccount("2", Environment.LIVE)]


def a_vault() -> Vault:
    return Vault([TokenKey("k1", Secret(base64.b64encode(b"k" * 32).decode()))])


class FakeGrants:
    """Keeps what is put; `away` calls fail first, as during an outage."""

    def __init__(self) -> None:
        self.issued: dict[tuple[str, str], tuple[IssuedTokens, ConsentScope]] = {}
        self.accounts: dict[tuple[str, str], Sequence[BrokerAccount]] = {}
        self.puts = 0
        self.away = 0

    async def put_issued(
        self, user_id: str, broker: str, issued: IssuedTokens, accounts: Sequence[BrokerAccount], scope: ConsentScope
    ) -> Credential:
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away")
        self.puts += 1
        self.issued[user_id, broker] = (issued, scope)
        self.accounts[user_id, broker] = accounts
        return Credential("grant", Environment.DEMO, issued.secrets)

    async def put_accounts(self, user_id: str, broker: str, accounts: Sequence[BrokerAccount]) -> None:
        self.accounts[user_id, broker] = accounts


@dataclass
class FakeAudit:
    """What was told, in order."""

    entries: list[tuple[Action, str | None, str, str, Mapping[str, Any]]] = field(default_factory=list)

    def record(
        self,
        action: Action,
        *,
        user_key: str | None,
        actor: str,
        outcome: str = "ok",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self.entries.append((action, user_key, actor, outcome, detail or {}))

    def told(self) -> list[tuple[str, str, str]]:
        return [(action.value, str(detail.get("step")), outcome) for action, _, _, outcome, detail in self.entries]


def parameters(address: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


class Browser:
    """Carries cookies, and what an address brought along."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.cookies: dict[str, str] = {}
        self.state = ""

    async def open(self, url: str) -> dict[str, str]:
        """Follow the address that the app was given; the parameters of the consent page it ends on."""
        begun = await self._connect.begin(broker="fake", state=parameters(url)["state"])
        self.cookies[begun.cookie_name] = begun.cookie
        self.state = parameters(begun.url)["state"]
        return parameters(begun.url)

    async def come_back(self, code: str | None = "the-code", *, state: str | None = None, error: str | None = None):
        """Be sent to the callback; the parameters with which the app is reached again."""
        returned = await self._connect.callback(
            broker="fake", state=state or self.state, cookies=self.cookies, code=code, error=error
        )
        assert returned.url.startswith(APP)
        self.cookies.pop(returned.cookie_name)
        return parameters(returned.url)


class Flow:
    """One process that connects users of the broker `fake`."""

    def __init__(self, database: Database, broker: FakeBroker | None = None, grants: FakeGrants | None = None) -> None:
        self.database = database
        self.broker = broker or FakeBroker()
        self.broker.covered = ACCOUNTS
        self.grants = grants or FakeGrants()
        self.audit = FakeAudit()
        self.connect = Connect(
            consents=ConsentTable(database),
            brokers={"fake": self.broker},
            sealer=a_vault(),
            grants=self.grants,
            user_keys=UserKeyScheme(),
            clock=ManualClock(),
            public_url=f"{BRIDGE}/",
            return_urls=[APP],
            audit=self.audit,
        )

    def browser(self) -> Browser:
        return Browser(self.connect)

    async def start(self, user: str = "user-1", *, return_to: str = APP, scope: str = "accounts") -> str:
        return await self.connect.start(
            user_id=user, broker="fake", return_to=return_to, scope=ConsentScope(scope), actor="user"
        )

    async def ticket(self, user: str = "user-1", code: str = "the-code") -> str:
        """Go all the way to the app again."""
        browser = self.browser()
        await browser.open(await self.start(user))
        return (await browser.come_back(code))["ticket"]

    async def complete(self, ticket: str, user: str = "user-1") -> Connected:
        return await self.connect.complete(user_id=user, broker="fake", ticket=ticket, actor="user")

    async def let_pass(self, seconds: int) -> None:
        """Make every consent that much older, by the database's clock."""
        await self.database.execute(
            "update public.bridge_consents set expires_at = expires_at - make_interval(secs => $1)", seconds
        )

    async def rows(self) -> list[Mapping[str, Any]]:
        return [dict(row) for row in await self.database.fetch("select * from public.bridge_consents")]
