"""Secrets do not come through, in any form; everything else does."""

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.telemetry import redaction
from bridge.telemetry.redaction import Redactor
from core.secret import Secret

CANARY = "c4n/ry+S3cret=&x"


def forms(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        *(secret, raw.hex(), raw.hex().upper(), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)),
        *(base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("=")),
    ]


@pytest.mark.parametrize("form", forms(CANARY))
def test_a_registered_secret_is_cut_in_every_form(form: str):
    redactor = Redactor()
    redactor.register(Secret(CANARY), None, Secret("short"))
    assert redactor.redact(f"before {form} after") == "before *** after" or form not in redactor.redact(f"a {form} b")
    assert redactor.redact(f"{form}{form}").count("***") >= 1
    assert form not in redactor.redact(f"x{form}{form}y")


@given(st.text(min_size=6, max_size=40), st.text(max_size=60), st.text(max_size=60))
def test_no_registered_secret_survives(secret: str, before: str, after: str):
    redactor = Redactor()
    redactor.register(Secret(secret))
    assert secret.replace("*", "") == "" or secret not in redactor.redact(before + secret + after)


@pytest.mark.parametrize("secret", ['pass"word\\with', "it's\\a\"pass", "pässwörd\u20ac", "back\\\\slash"])
def test_a_secret_is_cut_also_when_a_line_shows_it_escaped(secret: str):
    redactor = Redactor()
    redactor.register(Secret(secret))
    shown = [
        *(json.dumps({"field": secret}), json.dumps({"field": secret}, ensure_ascii=False), repr([secret])),
        *(repr(ValueError(f"'{secret}'")), json.dumps({"error": repr(ValueError(secret))})),
    ]
    for line in shown:
        cut = redactor.redact(line)
        assert "***" in cut, line
        assert not any(part in cut for part in ("word", "pass", "ssw", "rd", "back", "slash")), line


@given(st.text(max_size=200))
def test_text_without_secrets_is_left_alone(text: str):
    redactor = Redactor()
    redactor.register(Secret("never-in-the-text-0123456789"))
    if not redaction._LOOKS_SECRET.search(text):
        assert redactor.redact(text) == text


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer app.canary",
        "GET /token?grant_type=refresh_token&refresh_token=canary&client_secret=canary",
        '{"accessToken": "canary", "refreshToken": "canary"}',
        "connecting to redis://user:canary@host:6379/0",
        "password=canary",
    ],
)
def test_what_looks_like_a_credential_is_cut_even_when_unknown(line: str):
    assert "canary" not in Redactor().redact(line)


def test_the_table_forgets_the_oldest_when_full(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redaction, "FORMS_KEPT", 50)
    redactor = Redactor()
    for number in range(100):
        redactor.register(Secret(f"secret-number-{number}"))
    assert len(redactor._forms) == 50
    assert sum(map(len, redactor._by_prefix.values())) == 50
    assert redactor.redact("secret-number-99") == "***"
    assert redactor.redact("secret-number-1 ") == "secret-number-1 "
