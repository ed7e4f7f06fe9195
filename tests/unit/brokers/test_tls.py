"""One TLS context for the process: every socket of every adapter is dialled with the same, verifying as it must."""

import ssl
from typing import Any

import pytest

from bridge.brokers import transports
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.sockets import DialRefused
from bridge.brokers.stream import DialFault, open_socket
from bridge.brokers.tls import shared_tls
from core.secret import Secret


async def test_every_dial_uses_one_context_when_adapters_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    made = 0
    make = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        nonlocal made
        made += 1
        return make()

    async def refuse(*_: Any, tls: ssl.SSLContext | None, **__: Any) -> Any:
        seen.append(tls)
        raise DialRefused(503, "7")

    monkeypatch.setattr(ssl, "create_default_context", counted)
    monkeypatch.setitem(transports.KNOWN, transports.WEBSOCKETS, lambda: refuse)
    shared_tls.cache_clear()
    adapters: list[Any] = [AlpacaSettings(), AlpacaSettings(), CtraderSettings("id", Secret("secret"))]
    for settings in adapters:
        for _ in range(3):
            with pytest.raises(DialFault) as refusal:
                await open_socket(None, "wss://broker.example", settings)  # type: ignore[arg-type]
            assert (refusal.value.status, refusal.value.retry_after_s) == (503, 7.0)
    context = shared_tls(None)
    assert len(seen) == 9
    assert all(each is context for each in seen)
    assert made == 1
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(DialFault):
        await open_socket(None, "ws://127.0.0.1:1", adapters[0])  # type: ignore[arg-type]
    assert seen[-1] is None
