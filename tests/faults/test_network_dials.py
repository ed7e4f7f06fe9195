"""What may befall a dial before a broker says anything: addresses, TLS, and servers that say nothing (faults.md §2.1).

All three ways to a broker are tried: cTrader's channel, Alpaca's trading stream, Alpaca's REST. The resolver and the
addresses are the test's own; loopback has more than one. How often Alpaca dials is counted in `test_network_lines.py`.
"""

import asyncio
import datetime as dt
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, ReasonCode
from bridge.runtime.clock import SystemClock
from bridge.simulator.certificates import BAD_KINDS, Certificates, make_certificates
from tests.support.doors import APPLICATION_SECRET, CONNECT_S, DOORS, ctrader_channel, turned_away
from tests.support.fault_proxy import fault_proxy
from tests.support.fault_table import fault
from tests.support.hostile_alpaca import SECRETS, Tcp, whole

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
NAME = "broker.test"
LATE_S = 1.0  # a busy machine
GIVEN_UP = f"given up within {CONNECT_S:g} s, tried again"
Resolve = Callable[[list[str] | None], None]

every_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Says what the broker's name resolves to: addresses in this order; None: it cannot be resolved."""
    known: list[list[str] | None] = [None]
    real = socket.getaddrinfo

    def answer(host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        if host not in (NAME, NAME.encode()):
            return real(host, port, *more, **options)
        if known[-1] is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [each for address in known[-1] for each in real(address, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known.append


@contextmanager
def deaf(port: int) -> Iterator[None]:
    """Elsewhere, at this port, dials are never answered."""
    with socket.socket() as listening:
        listening.bind((ELSEWHERE, port))
        listening.listen(0)
        with socket.create_connection((ELSEWHERE, port)):  # there was room for one
            yield


def unreachable(fault: BrokerFault) -> None:
    assert fault.kind is FaultKind.TRANSIENT
    assert fault.reason.code is ReasonCode.BROKER_UNREACHABLE


async def timed(opening: Any) -> tuple[BrokerFault, float]:
    begun = time.monotonic()
    return await opening, time.monotonic() - begun


@fault("N05", "the only address never answers", GIVEN_UP)
@every_door
async def test_a_dial_is_given_up_in_time_when_nobody_answers(door: str) -> None:
    async with fault_proxy() as proxy, Tcp(turned_away) as server:
        proxy.target = server.port
        await proxy.ignore()
        async with DOORS[door](HERE, proxy.port, tls=False) as opening:
            told, took_s = await timed(opening())
            unreachable(told)
            assert took_s <= CONNECT_S + LATE_S
            await proxy.serve()
            await opening()
            assert server.connections == 1


@fault("N05", "the first of two addresses never answers", "the other one is reached by the same dial")
@every_door
async def test_the_next_address_is_dialled_when_the_first_never_answers(door: str, resolve: Resolve) -> None:
    async with Tcp(turned_away) as server:
        with deaf(server.port):
            resolve([ELSEWHERE, HERE])
            async with DOORS[door](NAME, server.port, tls=False) as opening:
                await opening()
                assert server.connections == 1


@fault("N06", "the first of two addresses refuses", "the other one is reached by the same dial")
@every_door
async def test_the_next_address_is_dialled_when_the_first_refuses(door: str, resolve: Resolve) -> None:
    async with Tcp(turned_away) as server:
        resolve([ELSEWHERE, HERE])
        async with DOORS[door](NAME, server.port, tls=False) as opening:
            await opening()
            assert server.connections == 1


@fault("N07", "the name is unknown, resolves to nothing, then to an address", "reached by the first dial after that")
@every_door
async def test_a_name_is_asked_for_again_when_it_could_not_be_resolved(door: str, resolve: Resolve) -> None:
    async with Tcp(turned_away) as server, DOORS[door](NAME, server.port, tls=False) as opening:
        for nothing in (None, []):
            resolve(nothing)
            unreachable(await opening())
        resolve([HERE])
        await opening()
        assert server.connections == 1


@fault("N07", "the name moves to another address", "the new one is dialled, and the old one no more")
@every_door
async def test_a_name_is_asked_for_at_every_dial_when_it_has_moved(door: str, resolve: Resolve) -> None:
    async with Tcp(turned_away) as server:
        with deaf(server.port):
            resolve([ELSEWHERE])
            async with DOORS[door](NAME, server.port, tls=False) as opening:
                unreachable(await opening())
                resolve([HERE])
                await opening()
                assert server.connections == 1


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), dt.datetime.now(dt.UTC))


class OldServer:
    """Speaks TLS up to 1.1, in a thread: with OpenSSL on the socket itself its refusals are told as alerts."""

    def __init__(self, certificates: Certificates) -> None:
        self.heard = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.ca_path.with_name("good.pem"))
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that is what makes it a fault
            self._context.minimum_version = ssl.TLSVersion.TLSv1
            self._context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def __aenter__(self) -> "OldServer":
        self._socket = socket.create_server((HERE, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait for clients
        await asyncio.to_thread(self._thread.join)
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                plug, _ = self._socket.accept()
                with suppress(OSError), plug, self._context.wrap_socket(plug, server_side=True) as talk:
                    self.heard += talk.recv(65_536)


def bad_server(certificates: Certificates, kind: str) -> Any:
    return OldServer(certificates) if kind == "too_old" else Tcp(turned_away, certificates.contexts[kind])


SAID = {
    "expired": "a certificate that has expired",
    "wrong_host": "another host's certificate",
    "unknown_ca": "a certificate of an unknown authority",
    "too_old": "nothing newer than TLS 1.1",
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=fault("N08", SAID[kind], "not a byte heard; logged as an error; a slow retry"))
        for kind in (*BAD_KINDS, "too_old")
    ],
)
@every_door
async def test_not_a_byte_is_said_when_tls_is_not_acceptable(
    door: str, kind: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    how: dict[str, Any] = {"tls": True, "tls_ca_file": str(certificates.ca_path), "certificate_retry_s": 30.0}
    async with (
        Tcp(turned_away, certificates.contexts["good"]) as good,
        DOORS[door](HERE, good.port, **how) as opening,
    ):
        await opening()
        assert good.heard, "with good TLS it is reached"
    async with bad_server(certificates, kind) as bad, DOORS[door](HERE, bad.port, **how) as opening:
        told = await opening()
        unreachable(told)
        assert "certificate" in told.reason.message
        assert (told.retry_after_s or 0.0) >= 30.0
        assert bad.heard == b""
        assert not any(secret in whole(told) for secret in (*SECRETS, APPLICATION_SECRET))
    assert any("TLS was refused" in record.getMessage() for record in caplog.records if record.levelname == "ERROR")


@fault("N09", "TLS stops after ClientHello", f"{GIVEN_UP}; the only place among handshakes is free again")
@every_door
async def test_a_handshake_is_given_up_in_time_when_tls_stops_in_it(door: str, certificates: Certificates) -> None:
    how: dict[str, Any] = {"tls": True, "tls_ca_file": str(certificates.ca_path), "handshakes_in_flight": 1}
    async with Tcp(turned_away, certificates.contexts["good"]) as server, fault_proxy(server.port) as proxy:
        proxy.downstream.set(swallow=True)
        async with DOORS[door](HERE, proxy.port, **how) as opening:
            told, took_s = await timed(opening())
            unreachable(told)
            assert took_s <= CONNECT_S + LATE_S
            assert proxy.upstream.passed > 0, "a ClientHello"
            assert server.heard == b""
            await proxy.heal()
            await opening()
            assert server.heard


@fault("N14", "bits flip on a line with TLS", "the connection ends; nothing of it is used")
@every_door
async def test_nothing_is_believed_when_bits_flip_under_tls(door: str, certificates: Certificates) -> None:
    how: dict[str, Any] = {"tls": True, "tls_ca_file": str(certificates.ca_path)}
    async with Tcp(turned_away, certificates.contexts["good"]) as server, fault_proxy(server.port, seed=1) as proxy:
        proxy.set(flip_every=200)
        async with DOORS[door](HERE, proxy.port, **how) as opening:
            for _ in range(5):
                unreachable(await opening())
            assert server.heard == b""
            await proxy.heal()


# ---------------------------------------------------------------- how often


class Skipping(SystemClock):
    """Time passes as fast as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@fault("N06", "cTrader: twelve dials in a row are refused", "waits at random up to 1, 2, 4 and so on to 60 s")
async def test_waits_grow_up_to_the_bound_when_every_dial_is_refused() -> None:
    told, clock = list[float](), Skipping()
    with socket.socket() as nobody:
        nobody.bind((HERE, 0))
        port = nobody.getsockname()[1]
        async with ctrader_channel(HERE, port, tls=False, clock=clock, backoff_first_s=1.0) as opening:
            for _ in range(12):
                refused = await opening()
                unreachable(refused)
                told.append(refused.retry_after_s or 0.0)
                clock.ahead_s += told[-1] + 0.001
    assert all(wait_s <= min(60.0, 2.0**failures) for failures, wait_s in enumerate(told)), told
    assert max(told) > 10.0, told
