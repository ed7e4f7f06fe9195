"""`python -m bridge simulate`: flags, the ready line, and a clean end on SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import orjson

from bridge.simulator.ctrader.server import Simulator
from bridge.simulator.ctrader.settings import RefreshVariant, SimulatorSettings
from core.errors import BridgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's flags to a parser."""
    defaults = SimulatorSettings()
    add = parser.add_argument
    add("--host", default=defaults.host, help="address to listen on (default %(default)s)")
    add("--ctrader-port", type=_port, default=15035, help="demo environment, WebSocket and TCP, plain; 0 = any free")
    add("--ctrader-live-port", type=_port, default=15034, help="live environment, plain; 0 = any free")
    add("--ctrader-tls-port", type=_port, default=15036, help="demo environment over TLS; 0 = any free")
    add("--admin-port", type=_port, default=15090, help="admin HTTP and OAuth token endpoint; 0 = any free")
    add("--seed", type=int, default=defaults.seed, help="same seed, same prices (default %(default)s)")
    add("--users", type=_positive, default=defaults.users, help="number of users (default %(default)s)")
    add("--speed", type=_speed, default=defaults.speed, help="how fast prices move (default %(default)s)")
    add("--prices", default=defaults.prices, help="walk, frozen, or a CSV file of time_ms,symbol,bid,ask")
    add(
        "--requests-per-second",
        type=_positive,
        default=defaults.requests_per_second,
        help="budget per connection; historical requests get a tenth of it (default %(default)s)",
    )
    add("--idle-seconds", type=float, default=defaults.idle_cutoff_s, help="silence before a client is cut off")
    add("--cert-dir", type=Path, help="folder for ca.pem and the TLS certificates (default: a temporary one)")
    add("--credentials", type=Path, metavar="FILE", help="write a credentials file for user-1 … user-n")
    add(
        "--refresh-variant",
        choices=[variant.value for variant in RefreshVariant],
        default=defaults.refresh_variant.value,
        help="what a token refresh does to open sessions (default %(default)s)",
    )


def main(argv: list[str]) -> int:
    """Run until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bridge simulate", description="A cTrader broker that runs on this machine."
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Run with parsed flags; prints one JSON line with the ports when ready."""
    settings = SimulatorSettings(
        host=options.host,
        ctrader_port=options.ctrader_port,
        ctrader_live_port=options.ctrader_live_port,
        ctrader_tls_port=options.ctrader_tls_port,
        admin_port=options.admin_port,
        seed=options.seed,
        users=options.users,
        prices=options.prices,
        speed=options.speed,
        requests_per_second=options.requests_per_second,
        idle_cutoff_s=options.idle_seconds,
        cert_dir=options.cert_dir,
        credentials=options.credentials,
        refresh_variant=RefreshVariant(options.refresh_variant),
    )
    try:
        asyncio.run(_serve(settings))
    except (OSError, BridgeError) as problem:
        print(f"the simulator cannot start: {problem}", file=sys.stderr)
        return 1
    return 0


async def _serve(settings: SimulatorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(settings) as simulator:
        print(orjson.dumps(simulator.ports.as_json()).decode(), flush=True)
        await stop.wait()


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return number


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 10_000:
        raise argparse.ArgumentTypeError("must be a number above 0 and at most 10000")
    return speed
