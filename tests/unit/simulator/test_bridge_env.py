"""The file of variables with which a bridge uses a simulator."""

import os
import subprocess
from pathlib import Path

import pytest

from bridge.simulator.bridge_env import bridge_env, write_bridge_env
from core.errors import InvalidInput

PORTS = {"ctrader": 1, "ctraderLive": 2, "ctraderTls": 3, "alpaca": 4, "alpacaLive": 5, "admin": 6, "ca": "/x/ca.pem"}


def test_the_variables_name_every_door_when_the_ports_are_known(tmp_path: Path) -> None:
    variables = bridge_env("127.0.0.1", PORTS, "id", "secret", tmp_path / "users.json")
    assert variables["CTRADER_DEMO_URL"] == "ws://127.0.0.1:1"
    assert variables["CTRADER_LIVE_URL"] == "ws://127.0.0.1:2"
    assert variables["CTRADER_TOKEN_URL"] == "http://127.0.0.1:6/apps/token"
    assert variables["ALPACA_PAPER_URL"] == "http://127.0.0.1:4"
    assert variables["ALPACA_LIVE_URL"] == "http://127.0.0.1:5"
    assert variables["ALPACA_DATA_URL"] == "ws://127.0.0.1:4"
    assert variables["ALPACA_DATA_FEED"] == "iex"
    assert variables["BRIDGE_CREDENTIALS_FILE"] == str(tmp_path / "users.json")
    assert "BRIDGE_CREDENTIALS_FILE" not in bridge_env("127.0.0.1", PORTS, "id", "secret")


@pytest.mark.parametrize(
    ("host", "dialled"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_the_host_can_be_dialled_when_the_simulator_listens_anywhere(host: str, dialled: str) -> None:
    assert bridge_env(host, PORTS, "id", "secret")["ALPACA_PAPER_URL"] == f"http://{dialled}:4"


def test_a_shell_reads_the_file_back_when_it_is_sourced(tmp_path: Path) -> None:
    file = tmp_path / "sim.env"
    variables = bridge_env("127.0.0.1", PORTS, "sim-client", "sim-secret", tmp_path / "users.json")
    write_bridge_env(file, variables)
    assert file.stat().st_mode & 0o777 == 0o600
    command = ["sh", "-c", 'set -a; . "$0"; env', str(file)]
    told = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True).stdout
    assert set(told.splitlines()) >= {f"{name}={value}" for name, value in variables.items()}


def test_a_value_is_refused_when_a_shell_would_read_it_otherwise(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        write_bridge_env(tmp_path / "sim.env", {"A": "two words"})
    assert not (tmp_path / "sim.env").exists()
