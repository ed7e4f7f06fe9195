"""A session with its listener and a supervisor of one; and a mirror read in the words of the record.

The supervisor is the plainest there is: log in again when told to, wait as long as told.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from bridge.brokers.base import AccountSession, BrokerFault, Credential, FaultKind, Stage
from core.account import AccountMirror
from core.money import json_number
from core.valuation import value_account
from tests.contract.rigs.rig import BrokerRig
from tests.support.waiting import eventually

WITHIN_S = 10.0


class Watched:
    """One session with its listener, and a supervisor of one."""

    def __init__(self, rig: BrokerRig, credential: Credential, account: str | None) -> None:
        self.rig = rig
        self.credential = credential
        self.stages: list[Stage] = []
        self.faults: list[BrokerFault] = []
        self.changes = 0
        self.urgent = 0
        self.session: AccountSession = rig.broker.session(rig.environment, account, self)

    def stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def changed(self, *, urgent: bool) -> None:
        self.changes += 1
        self.urgent += urgent

    def lost(self, fault: BrokerFault) -> None:
        self.faults.append(fault)

    async def login(self, *, at_risk: bool = False) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self.session.login(self.credential, at_risk=at_risk)

    async def come_back(self, *, within_s: float = WITHIN_S) -> None:
        """Log in, again and again as the faults say, until it works or time is up."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    await self.session.login(self.credential, at_risk=True)
                    return
                except BrokerFault as fault:
                    if fault.kind is FaultKind.TOKEN:
                        await self.refresh()
                    elif fault.kind in (FaultKind.FATAL_USER, FaultKind.FATAL_APP):
                        raise
                    else:
                        await asyncio.sleep(max(fault.retry_after_s or 0.0, 0.02))

    async def refresh(self) -> None:
        secrets = (await self.rig.broker.refresh(self.credential)).secrets
        old = self.credential
        self.credential = Credential(old.grant_id, old.environment, secrets, old.account_id)

    async def lost_once(self) -> BrokerFault:
        await eventually(lambda: bool(self.faults), within_s=WITHIN_S, what="the session is told that it is lost")
        return self.faults[-1]

    @property
    def mirror(self) -> AccountMirror:
        assert self.session.mirror is not None
        return self.session.mirror

    async def true(self) -> None:
        """The mirror says what the broker says, within moments."""
        account = self.session.account_id
        assert account is not None
        await eventually(
            lambda: reading(self.mirror) == expected(self.rig.truth(account)),
            within_s=WITHIN_S,
            what=f"{reading(self.mirror)} becomes {expected(self.rig.truth(account))}",
        )


FIELDS = ("login", "currency", "moneyDigits", "leverage", "balance", "equity", "unrealizedPnl", "usedMargin")
POSITION = ("id", "side", "units", "entryPrice", "currentPrice", "stopLoss", "takeProfit", "swap", "commission")
ORDER = ("id", "side", "type", "units", "filledUnits", "limitPrice", "stopPrice", "status")


def expected(truth: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: truth[name] for name in FIELDS},
        "positions": {one["id"]: {name: one[name] for name in POSITION} for one in truth["positions"]},
        "orders": {one["id"]: {name: one[name] for name in ORDER} for one in truth["orders"]},
    }


def reading(mirror: AccountMirror) -> dict[str, Any]:
    """The mirror in the words of the record."""
    value = value_account(mirror)
    return {
        "login": mirror.login,
        "currency": mirror.currency,
        "moneyDigits": mirror.money_digits,
        "leverage": json_number(mirror.leverage),
        "balance": json_number(mirror.balance),
        "equity": json_number(value.equity),
        "unrealizedPnl": json_number(value.unrealized_pnl),
        "usedMargin": json_number(value.used_margin),
        "positions": {
            one.id: {
                "id": one.id,
                "side": one.side.value,
                "units": json_number(one.units),
                "entryPrice": json_number(one.entry_price),
                "currentPrice": json_number(value.positions[one.id].current_price),
                "stopLoss": json_number(one.stop_loss),
                "takeProfit": json_number(one.take_profit),
                "swap": json_number(one.swap),
                "commission": json_number(one.commission),
            }
            for one in mirror.positions.values()
        },
        "orders": {
            one.id: {
                "id": one.id,
                "side": one.side.value,
                "type": one.type.value,
                "units": json_number(one.units),
                "filledUnits": json_number(one.filled_units),
                "limitPrice": json_number(one.limit_price),
                "stopPrice": json_number(one.stop_price),
                "status": one.status.value,
            }
            for one in mirror.orders.values()
        },
    }
