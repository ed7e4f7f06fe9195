"""The account as GET /v2/account shows it (reference/alpaca.md §1.3, without the fields that went in July 2026)."""

from __future__ import annotations

from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.numbers import ZERO, text
from bridge.simulator.alpaca.stamps import micro_text
from bridge.simulator.alpaca.trading.desk import Desk


def account_document(desk: Desk, account: Account) -> dict[str, Any]:
    """Account of reference §1.3."""
    now = desk.figures(account)
    money = {
        "cash": now.cash,
        "equity": now.equity,
        "last_equity": account.last_equity,
        "portfolio_value": now.equity,
        "buying_power": now.buying_power,
        "regt_buying_power": now.regt_buying_power,
        "non_marginable_buying_power": now.non_marginable,
        "options_buying_power": now.non_marginable,
        "effective_buying_power": now.buying_power,
        "long_market_value": now.long_value,
        "short_market_value": now.short_value,
        "position_market_value": now.long_value - now.short_value,
        "initial_margin": now.initial,
        "maintenance_margin": now.maintenance,
        "last_maintenance_margin": account.last_maintenance,
        "sma": max(ZERO, now.equity - now.initial),
        "accrued_fees": ZERO,
        "pending_reg_taf_fees": ZERO,
        "pending_transfer_in": ZERO,
        "pending_transfer_out": ZERO,
        "intraday_adjustments": ZERO,
    }
    return {
        "id": account.id,
        "account_number": account.number,
        "status": "ACTIVE",
        "crypto_status": "ACTIVE",
        "currency": account.currency,
        **{name: text(amount) for name, amount in money.items()},
        "multiplier": str(now.multiplier),
        "balance_asof": account.last_balance_date,
        "created_at": micro_text(account.created_ns),
        "shorting_enabled": now.multiplier > 1 and not account.configurations.no_shorting,
        "trading_blocked": False,
        "transfers_blocked": False,
        "account_blocked": False,
        "trade_suspended_by_user": account.configurations.suspend_trade,
        "options_approved_level": account.options_level,
        "options_trading_level": account.options_level,
    }
