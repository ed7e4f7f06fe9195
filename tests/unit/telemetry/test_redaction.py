"""Secrets do not come through, in any form; everything else does."""

import base64
import json
import string
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


TEXT = st.text(max_size=60)
RUNS = st.text("aZ09+/-_", max_size=9)


@given(st.text(min_size=6, max_size=40).filter(lambda text: "*" not in text), TEXT, TEXT)
def test_no_registered_secret_survives(secret: str, before: str, after: str):
    redactor = Redactor()
    redactor.register_lasting(Secret(secret))
    assert secret not in redactor.redact(before + secret + after)


@given(st.text(string.ascii_letters + string.digits + "+/=-_.~ü$", min_size=12, max_size=40), RUNS, RUNS)
def test_no_registered_secret_survives_in_the_midst_of_something_encoded(secret: str, before: str, after: str):
    redactor = Redactor()
    redactor.register_lasting(Secret(secret))
    raw, around = secret.encode(), (before.encode(), after.encode())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(around[0] + raw + around[1]).decode()
        assert encoded not in redactor.redact(f"{encoded} {encoded}")
        assert encode(raw).decode().rstrip("=") not in redactor.redact(before + encode(raw).decode() + after)
    for shown in (raw.hex(), raw.hex().upper()):
        assert shown not in redactor.redact(before + shown + after)


@pytest.mark.parametrize("secret", ['pass"word\\with', "it's\\a\"pass", "pässwörd\u20ac", "back\\\\slash"])
def test_a_secret_is_cut_also_when_a_line_shows_it_escaped(secret: str):
    redactor = Redactor()
    redactor.register_lasting(Secret(secret))
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
    if not redaction._STANDS_LIKE_A_SECRET.search(text):
        assert redactor.redact(text) == text


@pytest.mark.parametrize(
    "line",
    [
        '{"user":"3ac674216f3e","key":"ctrader_account_03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"}',
        'File "/app/.venv/lib/python3.11/site-packages/SQLAlchemy2/PoolEvents/_ConnectionRec.py", line 2, in _get_12',
        "ProtoOAGetAccountListByAccessTokenRes was refused with CH_ACCESS_TOKEN_INVALID after 2026-08-05T05:58:19.123",
        "deployment 3f2504e0-4f89-41d3-9a0c-0305e82c3301, migration 0004_grants, 1234567890123456789012345678901234",
        "test_a_name_that_is_long_and_plain_2 and AVeryLongNameOfAClassThatSomebodyThoughtOf2WasFine",
    ],
)
def test_what_operators_need_is_left_alone(line: str):
    redactor = Redactor()
    redactor.register(Secret("never-in-the-text-0123456789"))
    assert redactor.redact(line) == line


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer app.canary",
        "GET /token?grant_type=refresh_token&refresh_token=canary&client_secret=canary",
        '{"accessToken": "canary", "refreshToken": "canary"}',
        "connecting to redis://user:canary@host:6379/0",
        "password=canary",
        r'{"message":"{\"accessToken\": \"canary\"}"}',
        "GET /oauth/x/callback?state=canary&code=canary",
        "X-Api-Key: canary",
    ],
)
def test_what_looks_like_a_credential_is_cut_even_when_unknown(line: str):
    assert "canary" not in Redactor().redact(line)


def test_a_cut_leaves_the_quotes_of_json_whole():
    line = json.dumps({"message": json.dumps({"accessToken": "canary", "b": "x"})})
    assert json.loads(json.loads(Redactor().redact(line))["message"]) == {"accessToken": "***", "b": "x"}


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    "token", [JWT, "X7kQ2mZp9TfLr4WvB8nYc1Ds6HgJ0aEu", "fFN_LMKZYKRs-HBwDOsYwlXZB82VY0R3zIQoqYQ1e3w"]
)
def test_what_looks_like_a_token_is_cut_even_when_unknown(token: str):
    for line in (f"refused {token}.", f'{{"error":"{token}"}}', f"(b'{token}')"):
        cut = Redactor().redact(line)
        assert "***" in cut
        assert not any(token[at : at + 8] in cut for at in range(len(token) - 8))


@pytest.mark.parametrize("word", ["refused", "disconnect", "supervisor", "3ac674216f3e"])
def test_a_caller_cannot_blank_our_words_or_how_the_log_names_them_by_presenting_them_as_a_token(word: str):
    redactor = Redactor()
    redactor.register(Secret(word))
    assert redactor.redact(word) == word


def test_what_comes_and_goes_is_forgotten_in_the_order_it_was_registered_and_configuration_never(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(redaction, "FORMS_KEPT", 50)
    redactor = Redactor()
    redactor.register_lasting(Secret("configured-secret"))
    for number in range(175):
        redactor.register(Secret(f"secret-number-{number:03}"), Secret("secret-number-000"))
    kept = [number for number in range(175) if redactor.redact(f"secret-number-{number:03}") == "***"]
    assert kept[0] == 0  # registered again and again
    assert 50 <= len(kept) <= 100
    assert kept[1:] == list(range(176 - len(kept), 175))
    assert redactor.redact("configured-secret") == "***"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("redis://user:can%40ary-1@h:1/0", ("can%40ary-1", "can@ary-1")),
        ("postgresql://user@h/d?sslmode=require&password=canary-2", ("canary-2",)),
        (
            "https://hooks.example/services/T0001/B0002/canary0123456789",
            ("canary0123456789", "T0001/B0002/canary0123456789"),
        ),
        ("https://h/notify?token=canary-3", ("canary-3",)),
        ("https://canarykey0123@o1.example/5", ("canarykey0123",)),
    ],
)
def test_of_an_address_what_is_secret_in_it_is_cut_alone_and_nothing_else(address: str, parts: tuple[str, ...]):
    redactor = Redactor()
    redactor.register_lasting(Secret(address))
    assert redactor.redact(f"to {address} now") == "to *** now"
    for part in parts:
        assert part not in redactor.redact(f"to services/{part} now")
    plain = "user postgres wants sslmode require for services and notify at hooks.example"
    assert redactor.redact(plain) == plain


@pytest.mark.timeout(30)  # a square of the length would be minutes
def test_a_long_line_of_an_attacker_costs_no_more_than_its_length():
    redactor = Redactor()
    redactor.register(Secret("never-in-the-text-0123456789"))
    for piece in ("eyJ", "a.", "token", "://", "\\", "Zz9", "?code=", "0f"):
        assert redactor.redact(piece * (100_000 // len(piece)))
