"""The brokers of a world, what their users have entered with us, and how our adapters are set for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Environment
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.credentials.sealed import seal_secrets
from bridge.simulator import alpaca, ctrader
from bridge.simulator.bridge_env import bridge_env
from bridge.simulator.ctrader.settings import RefreshVariant
from bridge.simulator.running import Brokers
from core.secret import Secret
from tests.simulation import invariants

if TYPE_CHECKING:
    from tests.simulation.world import World


async def open_market(world: World) -> None:
    """Start both brokers and store what users have entered."""
    knobs = world.knobs
    world.brokers = Brokers(
        ctrader.SimulatorSettings(
            seed=world.seed,
            users=knobs.users,
            prices="frozen",
            ctrader_tls_port=None,
            requests_per_second=knobs.requests_per_second,
            refresh_variant=RefreshVariant(knobs.refresh_variant),
        ),
        alpaca.SimulatorSettings(
            seed=world.seed,
            users=knobs.users,
            prices="frozen",
            partial_fill_share=knobs.partial_fills,
            slot_seconds=knobs.slot_s,
        ),
        clock=world.clock,
    )
    await world.brokers.start()
    ports = world.brokers.ready_line()
    world.services_by_port = {ports["alpaca"]: "alpaca", ports["alpacaLive"]: "alpaca"}
    world.services_by_port |= {ports["ctrader"]: "ctrader", ports["ctraderLive"]: "ctrader"}
    world.services_by_port[ports["admin"]] = "sign-in"
    _set_adapters(world, bridge_env("127.0.0.1", ports, "sim-client", "sim-secret"))
    for user, entries in sorted(world.brokers.credentials().items()):
        for broker, entry in sorted(entries.items()):
            _enter(world, user, broker, dict(entry))
    _count_refreshes(world)
    world.ledgers.begin()


def _set_adapters(world: World, env: dict[str, str]) -> None:
    knobs = world.knobs
    world.ctrader_settings = CtraderSettings(
        client_id=env["CTRADER_CLIENT_ID"],
        client_secret=Secret(env["CTRADER_CLIENT_SECRET"]),
        live_url=env["CTRADER_LIVE_URL"],
        demo_url=env["CTRADER_DEMO_URL"],
        token_url=env["CTRADER_TOKEN_URL"],
        channels=knobs.channels,
        accounts_per_channel=knobs.accounts_per_channel,
        requests_per_second=round(knobs.requests_per_second * 0.9),
        history_requests_per_second=max(1, round(knobs.requests_per_second * 0.08)),
        connection_limit_s=knobs.slot_s + 5.0,
        app_blocked_s=40.0,  # of 300: the longest wait, and nothing happens in it
    )
    world.alpaca_settings = AlpacaSettings(
        live_url=env["ALPACA_LIVE_URL"],
        paper_url=env["ALPACA_PAPER_URL"],
        data_url=env["ALPACA_DATA_URL"],
        token_url=env["ALPACA_TOKEN_URL"],
        slot_wait_s=knobs.slot_s + 5.0,
    )


def _enter(world: World, user: str, broker: str, entry: dict[str, str]) -> None:
    environment = Environment.LIVE if entry.pop("environment") == "live" else Environment.DEMO
    account_id = entry.pop("accountId", None)
    secrets = {name: Secret(value) for name, value in entry.items()}
    user_key = world.user_keys.keys(user).canonical
    sealed = seal_secrets(world.vault, user_key, broker, secrets)
    world.grants.add(user_key, broker, environment, account_id, sealed)


def _count_refreshes(world: World) -> None:
    """Watch how often each refresh token is sent."""
    tokens = world.brokers.ctrader.services.tokens
    refresh, sent = tokens.refresh, world.refreshes_sent

    def counted(refresh_token: str, now_ms: int) -> Any:
        sent[refresh_token] += 1
        invariants.at_refresh(world, refresh_token, sent[refresh_token])
        outcome = refresh(refresh_token, now_ms)
        world.note("refresh", refresh_token.removeprefix("sim-refresh-"), outcome is not None)
        return outcome

    tokens.refresh = counted  # type: ignore[method-assign]
