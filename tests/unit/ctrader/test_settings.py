"""The defaults are promises (DESIGN §5, §6; reference/ctrader.md §1, §5): tests run faster timers, production these."""

import pytest

from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cache.record import HORIZON_AT_RISK_MS, HORIZON_EMPTY_MS
from bridge.config import Settings
from core.secret import Secret

DEFAULTS = CtraderSettings("id", Secret("secret"))


def test_a_heartbeat_leaves_at_least_every_ten_seconds_by_default() -> None:
    assert 0 < DEFAULTS.heartbeat_s <= 10


def test_silence_is_noticed_before_a_holders_record_could_outlive_it_by_default() -> None:
    assert (DEFAULTS.probe_after_s + DEFAULTS.probe_timeout_s) * 1000 <= HORIZON_AT_RISK_MS <= HORIZON_EMPTY_MS


def test_the_brokers_limits_are_kept_with_room_to_spare_by_default() -> None:
    assert DEFAULTS.requests_per_second <= 45
    assert DEFAULTS.history_requests_per_second <= 4
    assert DEFAULTS.connection_limit_s >= 95
    assert DEFAULTS.maintenance_cap_s <= 900
    assert DEFAULTS.app_blocked_s >= 300
    assert (DEFAULTS.backoff_first_s, DEFAULTS.backoff_cap_s, DEFAULTS.stable_s) == (1, 60, 60)


def test_a_deployment_gets_the_same_limits_when_it_sets_nothing() -> None:
    fields = Settings.model_fields
    assert fields["ctrader_requests_per_second"].default == DEFAULTS.requests_per_second
    assert fields["ctrader_history_requests_per_second"].default == DEFAULTS.history_requests_per_second
    assert fields["ctrader_channels"].default == DEFAULTS.channels
    assert fields["ctrader_demo_url"].default == DEFAULTS.demo_url
    assert fields["ctrader_live_url"].default == DEFAULTS.live_url
    assert fields["ctrader_quotes"].default == DEFAULTS.quotes


@pytest.mark.parametrize(
    ("channels", "per_channel", "accounts", "wanted"),
    [(1, None, 5000, 1), (4, None, 1, 4), (1, 1, 37, 37), (2, 100, 150, 2), (2, 100, 201, 3)],
)
def test_channels_grow_with_accounts(channels: int, per_channel: int | None, accounts: int, wanted: int) -> None:
    settings = CtraderSettings("id", Secret("s"), channels=channels, accounts_per_channel=per_channel)
    assert settings.channels_for(accounts) == wanted
