"""A hostile Alpaca: whatever its REST or its sign-in answers, the bridge stays small, alive and discreet.

Behind the server stands a catcher on another port: whatever reaches that was led astray, and a credential among it
would have been stolen.
"""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind
from core.errors import BridgeError
from core.secret import Secret
from tests.support.fault_table import fault
from tests.support.hostile_alpaca import (
    CODE,
    HELD,
    REST,
    SECRET_KEY,
    SECRETS,
    Tcp,
    answer,
    discreet,
    keys,
    open_feed,
    open_stream,
    quietly,
    send,
    whole,
)


@fault("N13", "Alpaca: REST answers without end, bombs, depths and absurd numbers", HELD)
@pytest.mark.parametrize("attack", REST)
async def test_an_answer_is_refused_in_time_and_small_when_it_is_hostile(
    attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Tcp(lambda head, writer: REST[attack](writer)) as server,
        discreet(caplog, server.port) as broker,
        asyncio.timeout(15),
    ):
        for asked in (
            broker.accounts(keys(broker)),
            broker.exchange_code(Secret(CODE), redirect_uri="https://bridge.example/back"),
        ):
            with pytest.raises(BridgeError) as refused:
                await asked
            assert isinstance(refused.value, BrokerFault)
            assert refused.value.kind in (FaultKind.TRANSIENT, FaultKind.FATAL_USER)
            assert not any(secret in whole(refused.value) for secret in SECRETS)
    assert SECRET_KEY.encode() in server.heard
    assert CODE.encode() in server.heard


@fault("N10", "Alpaca: every door redirects", "nobody else hears a secret")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_nobody_else_hears_a_secret_when_every_door_redirects(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def catch(head: bytes, writer: asyncio.StreamWriter) -> None:
        await send(writer, answer(b"{}"))

    async with Tcp(catch) as catcher:
        target = f"http://127.0.0.1:{catcher.port}"

        async def redirect(head: bytes, writer: asyncio.StreamWriter) -> None:
            location = target.replace("http", "ws", 1) if b"upgrade: websocket" in head.lower() else target
            await send(writer, answer(b"", f"Location: {location}/{'x' * 20}", f"Refresh: 0; {target}", status=status))

        async with Tcp(redirect) as server, discreet(caplog, server.port) as broker, asyncio.timeout(10):
            for asked in (
                broker.accounts(keys(broker)),
                broker.exchange_code(Secret(CODE), redirect_uri="https://bridge.example/back"),
                open_stream(broker),
                open_feed(broker),
            ):
                await quietly(asked)
            assert server.connections >= 4
        assert (catcher.connections, catcher.heard) == (0, b"")
