"""Settings: defaults, rules, one clear line for a wrong value, and no secret in any output."""

import base64
import os
import tomllib
from pathlib import Path

import pytest

from bridge.config import VERSION, Settings, load_settings
from bridge.config_table import describe
from bridge.config_values import is_loopback
from bridge.telemetry.redaction import Redactor
from core.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
TOKEN_KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "canary-secret-0123456789-0123456789"
DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return load_settings(None)


def test_nothing_configured_is_a_valid_start_on_loopback(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch)
    assert settings.hosts == ("127.0.0.1",)
    assert settings.store_names == ("memory",)
    assert settings.auth_open
    assert (settings.port, settings.drain_seconds, settings.cache_flush_interval) == (3000, 2.5, 2.0)


def test_all_addresses_are_bound_when_keys_are_configured(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch, API_KEYS=f"a:ops:{DIGEST},b:{DIGEST}", API_KEY_SECRET=SECRET)
    assert settings.hosts == ("0.0.0.0", "::")
    assert [(key.id, key.scopes) for key in settings.api_keys] == [
        ("a", frozenset({"ops"})),
        ("b", frozenset({"app", "ops"})),
    ]


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch, REDIS_URL="", API_KEYS="", PORT="", HOST="")
    assert settings.store_names == ("memory",)
    assert settings.port == 3000


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"REDIS_URL": "redis://:pw@h:1/2"}, "redis://:pw@h:1/2"),
        ({"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "1", "REDIS_PASSWORD": "p@:/"}, "redis://:p%40%3A%2F@[::1]:1/0"),
    ],
)
def test_redis_is_the_store_when_it_is_configured(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], url: str):
    settings = load(monkeypatch, **values)
    assert settings.store_names == ("redis",)
    assert settings.redis_target is not None
    assert settings.redis_target.reveal() == url


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"PORT": "65536"}, "PORT"),
        ({"PORT": "x"}, "PORT"),
        ({"CACHE_FLUSH_INTERVAL": "0.2"}, "CACHE_FLUSH_INTERVAL"),
        ({"CACHE_FLUSH_INTERVAL": "nan"}, "CACHE_FLUSH_INTERVAL"),
        ({"CACHE_FLUSH_MODE": "sometimes"}, "CACHE_FLUSH_MODE"),
        ({"CACHE_STORES": "disk"}, "CACHE_STORES"),
        ({"CACHE_STORES": "redis"}, "CACHE_STORES"),
        ({"CACHE_STORES": "memory,memory"}, "CACHE_STORES"),
        ({"CACHE_STORES": "postgres"}, "CACHE_STORES"),
        ({"DATABASE_URL": "mysql://u:canary@h/d"}, "DATABASE_URL"),
        ({"DATABASE_CONNECTIONS": "2"}, "DATABASE_CONNECTIONS"),
        ({"CACHE_STORES": "supabase", "SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_SECRET_KEY"),
        ({"SUPABASE_SECRET_KEY": "canary"}, "SUPABASE_SECRET_KEY"),
        ({"SUPABASE_URL": "http://x.supabase.co"}, "SUPABASE_URL"),
        ({"SUPABASE_KV_TABLE": "users; drop table x"}, "SUPABASE_KV_TABLE"),
        ({"CACHE_UNLOGGED": "1"}, "CACHE_UNLOGGED"),
        ({"SUPABASE_JWT_SECRET": SECRET}, "JWT_ISSUER"),
        ({"SUPABASE_JWT_SECRET": "canary-short"}, "SUPABASE_JWT_SECRET"),
        ({"JWKS_URL": "http://x/jwks"}, "JWKS_URL"),
        ({"JWKS_URL": "https://x/jwks", "SUPABASE_JWT_SECRET": SECRET, "JWT_ISSUER": "i"}, "JWKS_URL"),
        ({"USER_ID_CLAIM": "phone"}, "USER_ID_CLAIM"),
        ({"OAUTH_RETURN_URLS": "http://app.example.com/"}, "OAUTH_RETURN_URLS"),
        ({"OAUTH_RETURN_URLS": "https://*.example.com/"}, "OAUTH_RETURN_URLS"),
        ({"TOKEN_ENCRYPTION_KEYS": "canary"}, "TOKEN_ENCRYPTION_KEYS"),
        ({"TOKEN_ENCRYPTION_KEYS": "k1:canary"}, "TOKEN_ENCRYPTION_KEYS"),
        ({"TOKEN_ENCRYPTION_KEYS": f"k1:{TOKEN_KEY},k1:{TOKEN_KEY}"}, "TOKEN_ENCRYPTION_KEYS"),
        ({"TOKEN_ENCRYPTION_KEYS": f"k1:{TOKEN_KEY}"}, "TOKEN_ENCRYPTION_KEYS"),  # no database to keep tokens in
        ({"SESSION_IDLE_DAYS": "-1"}, "SESSION_IDLE_DAYS"),
        ({"ALERT_WEBHOOK_URL": "http://canary.example.com"}, "ALERT_WEBHOOK_URL"),
        ({"REDIS_URL": "http://h"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:canary@h:badport/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h", "REDIS_HOST": "h"}, "REDIS_HOST"),
        ({"USER_KEY_MODE": "keyed"}, "USER_KEY_SECRET"),
        ({"USER_KEY_MODE": "dual", "USER_KEY_SECRET": "canary-short"}, "USER_KEY_SECRET"),
        ({"USER_KEY_MODE": "md5"}, "USER_KEY_MODE"),
        ({"API_KEY_SECRET": "canary-short"}, "API_KEY_SECRET"),
        ({"API_KEYS": f"a:{DIGEST}"}, "API_KEY_SECRET"),
        ({"API_KEYS": "canary"}, "API_KEYS"),
        ({"API_KEYS": "a:root:" + DIGEST}, "API_KEYS"),
        ({"API_KEYS": "a:ops:canary"}, "API_KEYS"),
        ({"API_KEYS": f"a b:ops:{DIGEST}"}, "API_KEYS"),
        ({"API_KEYS": f"a:{DIGEST},a:{DIGEST}", "API_KEY_SECRET": SECRET}, "API_KEYS"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "null"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "https://a.example/path"}, "CORS_ORIGINS"),
        ({"TRUSTED_PROXY_HOPS": "-1"}, "TRUSTED_PROXY_HOPS"),
        ({"HOST": "0.0.0.0"}, "HOST"),
        ({"HOST": "127.0.0.1,192.0.2.1"}, "HOST"),
        ({"CTRADER_DEMO_URL": "ws://demo.example.com"}, "CTRADER_DEMO_URL"),
        ({"CTRADER_LIVE_URL": "https://live.example.com"}, "CTRADER_LIVE_URL"),
        ({"CTRADER_TOKEN_URL": "http://example.com"}, "CTRADER_TOKEN_URL"),
        ({"CTRADER_LIVE_URL": "wss://canary:canary@live.example.com"}, "CTRADER_LIVE_URL"),
        ({"PUBLIC_URL": "https://canary@app.example.com"}, "PUBLIC_URL"),
        ({"CTRADER_CLIENT_ID": "x"}, "CTRADER_CLIENT_SECRET"),
        ({"CTRADER_REQUESTS_PER_SECOND": "0"}, "CTRADER_REQUESTS_PER_SECOND"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"DRAIN_SECONDS": "0"}, "DRAIN_SECONDS"),
        ({"DYNO": "web.1"}, "API_KEYS"),
        ({"RAILWAY_ENVIRONMENT": "production"}, "API_KEYS"),
        ({"RENDER": "true"}, "API_KEYS"),
        ({"FLY_APP_NAME": "x", "API_KEY_SECRET": SECRET}, "API_KEYS"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_name(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], name: str):
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, **values)
    line = str(caught.value)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert "canary" not in line


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "ws://localhost:1", "ws://[::1]:1", "wss://any.example.com"])
def test_plain_broker_urls_are_for_loopback(monkeypatch: pytest.MonkeyPatch, url: str):
    assert load(monkeypatch, CTRADER_DEMO_URL=url).ctrader_demo_url == url


@pytest.mark.parametrize("host", ["localhost.evil.com", "127.0.0.1.nip.io", "0.0.0.0", "::", "10.0.0.1", ""])
def test_a_foreign_host_is_not_loopback(host: str):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"DATABASE_URL": "postgres://u@h/d"}, ("postgres",)),
        ({"DATABASE_URL": "postgres://u@h/d", "REDIS_HOST": "h"}, ("postgres", "redis")),
        ({"DATABASE_URL": "postgres://u@h/d", "CACHE_STORES": "memory"}, ("memory",)),
        ({"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SECRET_KEY": "k"}, ("supabase",)),
        ({"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": "k"}, ("supabase",)),
        ({"SUPABASE_URL": "https://x.supabase.co"}, ("memory",)),  # then it only names the issuer of user tokens
    ],
)
def test_the_stores_follow_from_what_is_configured(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], names: tuple[str, ...]
):
    assert load(monkeypatch, **values).store_names == names


@pytest.mark.parametrize(
    ("values", "issuer"),
    [
        ({"SUPABASE_URL": "https://x.supabase.co/", "SUPABASE_JWT_SECRET": SECRET}, "https://x.supabase.co/auth/v1"),
        ({"JWKS_URL": "https://x.io/auth/v1/.well-known/jwks.json"}, "https://x.io/auth/v1"),
        ({"JWKS_URL": "https://x.io/keys", "JWT_ISSUER": "https://issuer"}, "https://issuer"),
    ],
)
def test_the_issuer_of_user_tokens_is_known(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], issuer: str):
    settings = load(monkeypatch, **values)
    assert settings.token_issuer == issuer
    assert not settings.auth_open


def test_a_browser_may_return_to_the_apps_own_origins_when_no_others_are_named(monkeypatch: pytest.MonkeyPatch):
    origin, named = "https://app.example.com", "https://app.example.com/connected"
    assert load(monkeypatch, CORS_ORIGINS=origin).return_urls == (origin,)
    assert load(monkeypatch, CORS_ORIGINS=origin, OAUTH_RETURN_URLS=named).return_urls == (named,)


def test_the_file_is_read_in_development_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / ".env"
    path.write_bytes(
        b"\xef\xbb\xbfCTRADER_QUOTES=Shared\r\nPORT=4000\r\nLOG_LEVEL=debug\r\nUNRELATED=1\r\n"
    )  # as editors do
    monkeypatch.setenv("PORT", "5000")
    settings = load_settings(path)
    assert (settings.port, settings.log_level, settings.ctrader_quotes) == (5000, "DEBUG", "shared")
    sources = {row.name: row.source for row in describe(settings, path)}
    assert (sources["PORT"], sources["LOG_LEVEL"], sources["HOST"]) == ("environment", "file", "default")
    monkeypatch.setenv("DYNO", "1")
    monkeypatch.setenv("API_KEYS", f"a:{DIGEST}")
    monkeypatch.setenv("API_KEY_SECRET", SECRET)
    assert load_settings(path).log_level == "INFO"  # not on a platform


@pytest.mark.parametrize(
    ("text", "line"), [("PORT=1\n# fine\n\nthis is not a setting\n", 4), ('API_KEYS="canary\nPORT=1\n', 1)]
)
def test_a_line_of_the_file_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str, line: int):
    path = tmp_path / ".env"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert f"line {line} is not NAME=value" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_the_table_names_every_variable_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch):
    settings = load(
        monkeypatch,
        API_KEYS=f"a:ops:{DIGEST}",
        API_KEY_SECRET=SECRET,
        USER_KEY_SECRET=SECRET,
        REDIS_URL=f"redis://:{SECRET}@h",
        CTRADER_CLIENT_ID="id",
        CTRADER_CLIENT_SECRET=SECRET,
        DATABASE_URL=f"postgres://u:{SECRET}@h/d",
        TOKEN_ENCRYPTION_KEYS=f"k1:{TOKEN_KEY}",
        ALERT_WEBHOOK_URL=f"https://h/{SECRET}",
    )
    rows = describe(settings, None)
    text = repr(rows) + repr(settings) + str(settings)
    assert "canary" not in text
    assert DIGEST not in repr(rows)
    assert TOKEN_KEY not in text
    assert TOKEN_KEY in {secret.reveal() for secret in settings.secrets}
    assert all(row.type and row.description for row in rows)
    types = {row.name: row.type for row in rows}
    assert (types["PORT"], types["SUPABASE_KV_TABLE"], types["DATABASE_URL"]) == ("integer", "text", "secret")
    names = {row.name for row in rows}
    assert {"PORT", "REDIS_URL", "CTRADER_DEMO_URL", "DRAIN_SECONDS"} <= names
    assert not {"PAAS", "LATER_IGNORED"} & names


def test_of_the_keys_that_seal_also_the_bytes_are_secret(monkeypatch: pytest.MonkeyPatch):
    settings = load(monkeypatch, DATABASE_URL="postgres://u:p@h/d", TOKEN_ENCRYPTION_KEYS=f"k1:{TOKEN_KEY}")
    raw = base64.b64decode(TOKEN_KEY)
    redactor = Redactor()
    redactor.register_lasting(*settings.secrets)
    for shown in (raw.hex(), repr(raw), base64.urlsafe_b64encode(raw).decode()):
        assert shown not in redactor.redact(f"key {shown} end")


def test_the_example_file_has_every_variable_and_is_valid(monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / ".env.example").read_text()
    named = {line.lstrip("# ").partition("=")[0] for line in text.splitlines() if "=" in line}
    assert {row.name for row in describe(load_settings(None), None)} <= named
    assert load_settings(ROOT / ".env.example").auth_open


def test_the_version_is_that_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
