"""Which implementation speaks with the brokers: named by a setting, and missed at start, not at the first dial."""

import random
import sys

import pytest

from bridge.app import build_brokers
from bridge.brokers import transports
from bridge.config import Settings
from bridge.runtime.clock import SystemClock
from core.errors import ConfigurationError


def settings(**named: str) -> Settings:
    return Settings(_env_file=None, ctrader_client_id="a", ctrader_client_secret="b", **named)  # type: ignore[arg-type, call-arg]


def test_start_is_refused_in_one_sentence_when_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picows", None)  # as if it was not installed
    monkeypatch.delitem(sys.modules, "bridge.brokers.transports.picows", raising=False)
    with pytest.raises(ConfigurationError, match=r"BRIDGE_TRANSPORT: picows is not installed .* extra `fast`"):
        build_brokers(settings(bridge_transport="PICOWS"), SystemClock(), random.Random(1))


def test_default_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picows", None)
    assert set(build_brokers(settings(), SystemClock(), random.Random(1))) == {"ctrader", "alpaca"}


def test_each_name_opens_sockets_of_its_own() -> None:
    homes = {name: transports.named(name).__module__ for name in (transports.WEBSOCKETS, transports.PICOWS)}  # type: ignore[attr-defined]
    assert homes[transports.PICOWS] == "bridge.brokers.transports.picows"
