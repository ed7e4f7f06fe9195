"""Mistakes on the command line get a sentence, not the name of a function."""

import pytest

from bridge.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says last, after it has refused its arguments."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].partition(": error: ")[2]


@pytest.mark.parametrize("value", ["abc", "0", "-1", "nan", "inf", ""])
def test_seconds_are_refused_in_words_when_they_are_no_time(capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert refusal(capsys, "demo", "--seconds", value) == "argument --seconds: must be a positive number of seconds"


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--users", "x", "must be a whole number of at least 1"),
        ("--users", "0", "must be a whole number of at least 1"),
        ("--speed", "x", "must be a number above 0 and at most 10000"),
        ("--speed", "nan", "must be a number above 0 and at most 10000"),
        ("--ctrader-port", "x", "a port is a number from 0 to 65535"),
        ("--ctrader-port", "-1", "a port is a number from 0 to 65535"),
        ("--ctrader-port", "65536", "a port is a number from 0 to 65535"),
    ],
)
def test_simulator_flags_are_refused_in_words(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, said: str
) -> None:
    assert refusal(capsys, "simulate", flag, value) == f"argument {flag}: {said}"


def test_every_command_is_listed_when_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(f"\n    {name} " in shown for name in ("serve", "simulate", "demo", "keys", "config", "doctor", "whois"))
