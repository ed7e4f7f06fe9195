"""Both simulated brokers as one thing that runs: one admin server, one ready line, one credentials file.

Invariant: whatever `start` opened, `close` closes, also when the start failed half-way.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.runtime.clock import Clock
from bridge.simulator import alpaca, ctrader
from bridge.simulator.admin import make_app
from bridge.simulator.admin_http import Stop, serve
from bridge.simulator.alpaca.market.catalogue import ASSETS
from bridge.simulator.bridge_env import bridge_env, write_bridge_env
from bridge.simulator.credentials_file import write_credentials
from bridge.simulator.ctrader.actions import Actions as CTraderActions
from bridge.simulator.ctrader.catalogue import TERMS_BY_NAME


class Brokers:
    """A running cTrader and a running Alpaca. `credentials` and `env`: files to write when both are ready."""

    def __init__(
        self,
        ctrader_settings: ctrader.SimulatorSettings,
        alpaca_settings: alpaca.SimulatorSettings,
        *,
        credentials: Path | None = None,
        env: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        # One file may hold both brokers' prices.
        alpaca_settings = replace(alpaca_settings, strangers=frozenset(TERMS_BY_NAME))
        ctrader_settings = replace(ctrader_settings, strangers=frozenset(asset.symbol for asset in ASSETS))
        self.alpaca = alpaca.Simulator(alpaca_settings, clock)
        self.ctrader = ctrader.Simulator(ctrader_settings, clock, admin=self._start_admin)
        self._credentials_file = credentials
        self._env_file = env
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Open every port, then write the files. Raises OSError, InvalidInput."""
        try:
            await self._stack.enter_async_context(self.alpaca)
            await self._stack.enter_async_context(self.ctrader)
            self._write_files()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close both brokers."""
        await self._stack.aclose()

    def ready_line(self) -> dict[str, Any]:
        """The ports of both (DESIGN §13)."""
        line = {**self.ctrader.ports.as_json(), **self.alpaca.ports.as_json()}
        order = ("ctrader", "ctraderLive", "ctraderTls", "alpaca", "alpacaLive", "admin", "ca")
        return {name: line[name] for name in order if name in line}

    def credentials(self) -> dict[str, dict[str, Mapping[str, str]]]:
        """Credential entries of both brokers by user."""
        ours, theirs = self.ctrader.credentials(), self.alpaca.credentials()
        return {user: {**ours.get(user, {}), **theirs.get(user, {})} for user in {**ours, **theirs}}

    def _write_files(self) -> None:
        if self._credentials_file is not None:
            write_credentials(self._credentials_file, self.credentials())
        if self._env_file is not None:
            settings = self.ctrader.settings
            variables = bridge_env(
                settings.host, self.ready_line(), settings.client_id, settings.client_secret, self._credentials_file
            )
            write_bridge_env(self._env_file, variables)

    async def _start_admin(self, actions: CTraderActions, host: str, port: int) -> tuple[Stop, int]:
        return await serve(make_app(actions, self.alpaca.actions), host, port)
