"""`python -m bridge simulate`: flags, the ready line, and a clean end on SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from pathlib import Path

import orjson

from bridge.simulator import alpaca, ctrader
from bridge.simulator.running import Brokers
from core.errors import BridgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's flags to a parser."""
    defaults, alpaca_defaults = ctrader.SimulatorSettings(), alpaca.SimulatorSettings()
    add = parser.add_argument
    add("--host", default=defaults.host, help="address to listen on (default %(default)s)")
    add(
        "--ctrader-port",
        type=_port,
        default=15035,
        help="cTrader demo environment, WebSocket and TCP, plain; 0 = any free",
    )
    add("--ctrader-live-port", type=_port, default=15034, help="cTrader live environment, plain; 0 = any free")
    add("--ctrader-tls-port", type=_port, default=15036, help="cTrader demo environment over TLS; 0 = any free")
    add("--alpaca-port", type=_port, default=15040, help="Alpaca paper: REST and streams; 0 = any free")
    add("--alpaca-live-port", type=_port, default=15041, help="Alpaca live: REST and streams; 0 = any free")
    add("--admin-port", type=_port, default=15090, help="admin HTTP and cTrader's OAuth pages; 0 = any free")
    add("--free-ports", action="store_true", help="take any free port for everything")
    add("--seed", type=int, default=defaults.seed, help="same seed, same prices (default %(default)s)")
    add("--users", type=_positive, default=defaults.users, help="number of users (default %(default)s)")
    add("--speed", type=_speed, default=defaults.speed, help="how fast prices move (default %(default)s)")
    add("--prices", default=defaults.prices, help="walk, frozen, or a CSV file of time_ms,symbol,bid,ask for both")
    add(
        "--requests-per-second",
        type=_positive,
        default=defaults.requests_per_second,
        help="cTrader's budget per connection; historical requests get a tenth of it (default %(default)s)",
    )
    add(
        "--alpaca-requests-per-minute",
        type=_positive,
        default=alpaca_defaults.requests_per_minute,
        help="Alpaca's budget per account (default %(default)s)",
    )
    add(
        "--alpaca-slot-seconds",
        type=_seconds,
        default=alpaca_defaults.slot_seconds,
        help="how long a vanished Alpaca trading stream keeps its account's slot (default %(default)s)",
    )
    add("--idle-seconds", type=float, default=defaults.idle_cutoff_s, help="silence before cTrader cuts a client off")
    add("--cert-dir", type=Path, help="folder for ca.pem and the TLS certificates (default: a temporary one)")
    add("--credentials", type=Path, metavar="FILE", help="write a credentials file for user-1 … user-n")
    add("--env", type=Path, metavar="FILE", help="write the variables with which a bridge uses this simulator")
    add(
        "--refresh-variant",
        choices=[variant.value for variant in ctrader.RefreshVariant],
        default=defaults.refresh_variant.value,
        help="what a token refresh at cTrader does to open sessions (default %(default)s)",
    )


def main(argv: list[str]) -> int:
    """Run until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bridge simulate", description="A cTrader and an Alpaca that run on this machine."
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Run with parsed flags; prints one JSON line with the ports when ready."""
    if options.free_ports:
        for name in (name for name in vars(options) if name.endswith("_port")):
            setattr(options, name, 0)
    try:
        asyncio.run(_serve(options))
    except (OSError, BridgeError) as problem:
        print(f"the simulator cannot start: {problem}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    files = {"credentials": options.credentials, "env": options.env}
    async with Brokers(_ctrader_settings(options), _alpaca_settings(options), **files) as brokers:
        gc.collect()
        gc.freeze()  # who lives here stays: with thousands of users each look at all of them took a third of a second
        print(orjson.dumps(brokers.ready_line()).decode(), flush=True)
        await stop.wait()


def _ctrader_settings(options: argparse.Namespace) -> ctrader.SimulatorSettings:
    return ctrader.SimulatorSettings(
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
        refresh_variant=ctrader.RefreshVariant(options.refresh_variant),
    )


def _alpaca_settings(options: argparse.Namespace) -> alpaca.SimulatorSettings:
    return alpaca.SimulatorSettings(
        host=options.host,
        alpaca_port=options.alpaca_port,
        alpaca_live_port=options.alpaca_live_port,
        seed=options.seed,
        users=options.users,
        prices=options.prices,
        speed=options.speed,
        requests_per_minute=options.alpaca_requests_per_minute,
        slot_seconds=options.alpaca_slot_seconds,
    )


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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0 to 86400")
    return seconds
