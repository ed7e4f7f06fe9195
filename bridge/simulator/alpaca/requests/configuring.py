"""Changing how an account is configured. Source: reference/alpaca.md §1.2, §1.3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account, Configurations
from bridge.simulator.alpaca.refusals import malformed
from bridge.simulator.alpaca.requests.entry import read_bool

CHOICES: dict[str, tuple[Any, ...]] = {
    "max_margin_multiplier": ("1", "2", "4"),
    "trade_confirm_email": ("all", "none"),
    "max_options_trading_level": (None, 0, 1, 2, 3),
}


def configure(account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    """PATCH /v2/account/configurations: any subset. Raises ApiRefusal (422); nothing changes then.

    A null is no wish: `alpaca-py` sends its whole model, retired fields included.
    """
    wanted = asdict(account.configurations)
    for name, value in body.items():
        if value is None:
            continue
        if name not in wanted:
            raise malformed(f"unknown field {name}")
        wanted[name] = _setting(body, name, is_flag=isinstance(wanted[name], bool))
    account.configurations = Configurations(**wanted)
    return asdict(account.configurations)


def _setting(body: Mapping[str, Any], name: str, *, is_flag: bool) -> Any:
    if is_flag:
        return read_bool(body, name)
    value = body[name]
    written = [str(each) for each in CHOICES[name]]
    if str(value) not in written:
        raise malformed(f"invalid {name}")
    return CHOICES[name][written.index(str(value))]
