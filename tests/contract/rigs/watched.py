"""A session with its listener and a supervisor of one; and a mirror read as the record that readers get.

The supervisor is the plainest there is: log in again when told to, wait as long as told.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from bridge.brokers.base import AccountSession, BrokerFault, Credential, FaultKind, Stage
from bridge.cache.record import Reading, RecordStatus, make_record
from core.account import AccountMirror
from core.money import json_number
from tests.contract.rigs.rig import BrokerRig, Trait
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
                        await asyncio.sleep(max(fault.retry_after_s or 0.0, 0.02))  # as a session would wait

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

    def reading(self) -> dict[str, Any]:
        """The mirror as its record says it."""
        return reading(self.rig.broker.name, self.mirror)

    async def hears_of_cash(self) -> None:
        """Where moved cash is not told, the periodic reconcile is what finds it."""
        if Trait.CASH_EVENTS in self.rig.lacks:
            await self.session.reconcile()

    async def true(self) -> None:
        """The record says what the broker says, within moments."""
        account = self.session.account_id
        assert account is not None
        await eventually(
            lambda: self.reading() == expected(self.rig.truth(account)),
            within_s=WITHIN_S,
            what=lambda: (
                "the record says the truth; apart (ours, truth): "
                f"{differences(self.reading(), expected(self.rig.truth(account)))}"
            ),
        )

    async def priced(self) -> None:
        """The positions say what the broker says, prices and all, within moments; margin may follow."""
        account = self.session.account_id
        assert account is not None
        await eventually(
            lambda: self.reading()["positions"] == expected(self.rig.truth(account))["positions"],
            within_s=WITHIN_S,
            what=lambda: f"positions: {differences(self.reading(), expected(self.rig.truth(account)))}",
        )

    async def knows(self, executions: Iterable[Mapping[str, Any]]) -> None:
        """Exactly these executions are known, each once, with their figures; `recovered` among them."""
        wanted = by_id(executions)
        await eventually(
            lambda: by_id(self.executions()) == wanted and len(self.mirror.fills) == len(wanted),
            within_s=WITHIN_S,
            what=lambda: f"{self.executions()} are {list(wanted.values())}",
        )

    def executions(self) -> list[dict[str, Any]]:
        """The executions that the mirror knows, in the words of the rig, and whether they were found afterwards."""
        instruments = self.mirror.catalogue.instruments
        return [
            {
                "id": fill.execution_id,
                "orderId": fill.order_id,
                "symbol": instruments[fill.instrument_id].name if fill.instrument_id in instruments else None,
                "side": fill.side.value,
                "units": json_number(fill.units),
                "price": json_number(fill.price),
                "recovered": fill.recovered,
            }
            for fill in self.mirror.fills
        ]


def by_id(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["id"]: row for row in rows}


def found(rows: Iterable[Mapping[str, Any]], *, recovered: bool) -> list[dict[str, Any]]:
    """What the broker executed, as it should be known."""
    return [{**row, "recovered": recovered} for row in rows]


ACCOUNT = (
    *("broker", "environment", "accountId", "login", "currency", "moneyDigits", "leverage"),
    *("balance", "equity", "unrealizedPnl", "usedMargin", "freeMargin", "marginLevel"),
)
POSITION = (
    *("id", "symbol", "side", "units", "lots", "priceDigits", "entryPrice", "currentPrice"),
    *("stopLoss", "takeProfit", "swap", "commission", "unrealizedPnl", "usedMargin", "openedAt"),
)
ORDER = (
    *("id", "symbol", "side", "type", "units", "filledUnits", "limitPrice", "stopPrice"),
    *("stopLoss", "takeProfit", "status", "createdAt"),
)


def expected(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the record that the truth must hold, positions and orders by id."""
    return {
        **{name: truth[name] for name in ACCOUNT},
        "positions": {one["id"]: {name: one[name] for name in POSITION} for one in truth["positions"]},
        "orders": {one["id"]: {name: one[name] for name in ORDER} for one in truth["orders"]},
    }


def reading(broker: str, mirror: AccountMirror) -> dict[str, Any]:
    """The mirror as the record of a live session says it, in the form of `expected`."""
    now = Reading(broker, mirror.environment, mirror.account_id, RecordStatus.LIVE, None, mirror, 1)
    return expected(orjson.loads(make_record(now, fence=1, version=1, now_ms=1).document))


def differences(ours: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    """For the message of a failure."""
    apart = {name: (ours[name], truth[name]) for name in ACCOUNT if ours[name] != truth[name]}
    for part in ("positions", "orders"):
        for key in ours[part].keys() | truth[part].keys():
            mine, theirs = ours[part].get(key), truth[part].get(key)
            if mine is None or theirs is None:
                apart[f"{part}.{key}"] = (mine, theirs)
            else:
                apart |= {f"{part}.{key}.{n}": (mine[n], theirs[n]) for n in theirs if mine[n] != theirs[n]}
    return apart
