"""All settings, from the environment and, in development, `.env` (DESIGN §12). Nothing else reads the environment.

A wrong value stops the start with one line that names the variable and the rule; the value is never printed, since
it may be a secret. Invariant: a `Settings` that exists is consistent, the caller need not check it again.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.config_rules import rules_of
from bridge.config_values import (
    LOWER_CASE,
    SECRET_LENGTH,
    UPPER_CASE,
    ApiKeys,
    HttpUrl,
    KvTable,
    LongSecret,
    Origins,
    PostgresUrl,
    PublicUrl,
    RedisUrl,
    ReturnAddresses,
    SecretHttpUrl,
    SecretText,
    SocketUrl,
    TokenKeys,
    Words,
)
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode

VERSION = "0.1.0"
ENV_FILE = ".env"
ENV_ENCODING = "utf-8-sig"  # some editors begin a file with a mark that would become part of the first name
PAAS_MARKS = ("RAILWAY_ENVIRONMENT", "DYNO", "RENDER", "FLY_APP_NAME")


def setting(default: Any, description: str, *, unit: str = "", **rules: Any) -> Any:
    """A field with its description and unit."""
    return Field(default, description=description, json_schema_extra={"unit": unit}, **rules)


class Settings(BaseSettings):
    """One attribute per variable, named like it in lower case."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    # where it listens
    port: int = setting(3000, "Port of the HTTP API; 0 takes any free one.", unit="port", ge=0, le=65535)
    host: Words = setting(
        (), "Addresses to bind, separated by commas. Empty: all when API keys are set, else 127.0.0.1.", unit="address"
    )
    public_url: PublicUrl | None = setting(
        None, "The address under which callers reach this bridge; shown at start and in /openapi.json.", unit="URL"
    )

    # the database
    database_url: PostgresUrl | None = setting(
        None, "Postgres: durable sessions, credentials, audit, records. Direct or behind any pooler.", unit="URL"
    )
    database_connections: int = setting(
        6,
        "Connections to Postgres at most, two of them kept for records and one for the lease.",
        unit="connections",
        ge=4,
        le=100,
    )
    database_session_url: PostgresUrl | None = setting(
        None,
        "The same Postgres, direct or behind a session pooler: one more connection, on which processes hear of one"
        " another at once. Empty: they look once a second.",
        unit="URL",
    )
    supabase_url: HttpUrl | None = setting(None, "The Supabase project.", unit="URL")
    supabase_secret_key: SecretText | None = setting(None, "Supabase secret key (sb_secret_…) of the project.")
    supabase_service_role_key: SecretText | None = setting(None, "The older service role key, instead.")
    supabase_kv_table: KvTable | None = setting(
        None,
        "Key-value table (key text, value jsonb) for the records; kv_store_bridge with the supabase store when empty.",
        unit="table",
    )

    # the cache
    redis_url: RedisUrl | None = setting(None, "Redis or Valkey; may hold a password.", unit="URL")
    redis_host: str | None = setting(None, "Redis host, instead of REDIS_URL.", unit="host")
    redis_port: int = setting(6379, "Redis port, with REDIS_HOST.", unit="port", ge=1, le=65535)
    redis_password: SecretText | None = setting(None, "Redis password, with REDIS_HOST.")
    cache_stores: Words = setting(
        (),
        "Stores for the records, the first is the primary: postgres, supabase, redis, memory."
        " Empty: postgres (else supabase), then redis, whichever are configured, else memory.",
        unit="list",
    )
    cache_flush_interval: float = setting(2.0, "How often changed records are written.", unit="s", ge=0.25, le=4)
    cache_unlogged: bool = setting(False, "Keep the records table of Postgres out of the write-ahead log.")
    cache_flush_mode: Annotated[Literal["changed", "always"], LOWER_CASE] = setting(
        "changed", "Write changed records only, or every live record each time."
    )
    user_key_mode: Annotated[UserKeyMode, LOWER_CASE] = setting(
        UserKeyMode.SHA256, "How user ids become keys: sha256, keyed, or dual (both, for migration)."
    )
    user_key_secret: LongSecret | None = setting(
        None, "Secret of the user keys in the modes keyed and dual; 32 characters or more."
    )

    # who may call
    api_key_secret: LongSecret | None = setting(None, "Secret under which API keys are hashed; 32 characters or more.")
    api_keys: ApiKeys = setting(
        (),
        "Admitted API keys as id:scope:hash, separated by commas; scope app or ops, id:hash holds both.",
        unit="list",
    )
    cors_origins: Origins = setting(
        (), "Exact web origins that browsers may call from, separated by commas.", unit="list"
    )
    supabase_jwt_secret: LongSecret | None = setting(None, "Secret of Supabase's HS256 user tokens.")
    jwks_url: HttpUrl | None = setting(None, "Public keys of the issuer of user tokens (ES256, RS256).", unit="URL")
    jwt_issuer: str | None = setting(
        None, "The iss that user tokens must have. Empty: SUPABASE_URL with /auth/v1, else JWKS_URL up to /.well-known."
    )
    jwt_audience: str = setting("authenticated", "The aud that user tokens must have.")
    user_id_claim: Annotated[Literal["sub", "email"], LOWER_CASE] = setting(
        "sub", "The claim of a user token that is the user id."
    )
    oauth_return_urls: ReturnAddresses = setting(
        (),
        "Addresses that a browser may return to after connecting a broker (origin, and what the path begins with)."
        " Empty: CORS_ORIGINS.",
        unit="list",
    )
    trusted_proxy_hops: int = setting(
        0, "Proxies in front that append to X-Forwarded-For; 1 on most platforms.", unit="proxies", ge=0, le=10
    )

    # credentials
    token_encryption_keys: TokenKeys = setting(
        (), "Keys that seal stored tokens, as id:base64, separated by commas; the first one seals.", unit="list"
    )
    bridge_credentials_file: Path | None = setting(None, "JSON file with users' broker credentials.", unit="path")

    # cTrader
    ctrader_client_id: str | None = setting(None, "Client id of the cTrader Open API application.")
    ctrader_client_secret: SecretText | None = setting(None, "Client secret of that application.")
    ctrader_live_url: SocketUrl = setting("wss://live.ctraderapi.com:5035", "cTrader's live host.", unit="URL")
    ctrader_demo_url: SocketUrl = setting("wss://demo.ctraderapi.com:5035", "cTrader's demo host.", unit="URL")
    ctrader_auth_url: HttpUrl = setting(
        "https://id.ctrader.com/my/settings/openapi/grantingaccess/", "cTrader's consent page.", unit="URL"
    )
    ctrader_token_url: HttpUrl = setting(
        "https://openapi.ctrader.com/apps/token", "cTrader's OAuth token endpoint.", unit="URL"
    )
    ctrader_channels: int = setting(1, "Channels per environment, at least.", unit="channels", ge=1, le=1000)
    ctrader_accounts_per_channel: int = setting(
        0, "Accounts on one channel before another is opened; 0 = unlimited, 1 = a socket each.", unit="accounts", ge=0
    )
    ctrader_requests_per_second: int = setting(
        45, "Ordinary requests on one channel.", unit="requests/s", ge=1, le=10_000
    )
    ctrader_history_requests_per_second: int = setting(
        4, "Historical requests on one channel.", unit="requests/s", ge=1, le=10_000
    )
    ctrader_quotes: Annotated[Literal["account", "shared"], LOWER_CASE] = setting(
        "account", "Price subscriptions: one per account and symbol, or one shared by a channel's accounts."
    )

    # Alpaca
    alpaca_client_id: str | None = setting(
        None, "Client id of the Alpaca OAuth application; without one users enter key pairs."
    )
    alpaca_client_secret: SecretText | None = setting(None, "Client secret of that application.")
    alpaca_live_url: HttpUrl = setting("https://api.alpaca.markets", "Alpaca's live trading host.", unit="URL")
    alpaca_paper_url: HttpUrl = setting("https://paper-api.alpaca.markets", "Its paper trading host.", unit="URL")
    alpaca_live_stream_url: SocketUrl | None = setting(
        None, "Its live trading stream; /stream on the live host when empty.", unit="URL"
    )
    alpaca_paper_stream_url: SocketUrl | None = setting(
        None, "Its paper trading stream; /stream on the paper host when empty.", unit="URL"
    )
    alpaca_data_url: SocketUrl = setting(
        "wss://stream.data.alpaca.markets", "Its market data streams' host.", unit="URL"
    )
    alpaca_data_feed: Annotated[Literal["iex", "sip", "delayed_sip", "test", "off"], LOWER_CASE] = setting(
        "iex", "Stock prices' feed; off: prices are polled, and no user's data connection is taken."
    )
    alpaca_data_key_id: SecretText | None = setting(
        None, "Key id of one data connection for all users; empty: a connection of each user's own."
    )
    alpaca_data_secret_key: SecretText | None = setting(None, "Secret key that goes with it.")
    alpaca_auth_url: HttpUrl = setting(
        "https://app.alpaca.markets/oauth/authorize", "Alpaca's consent page.", unit="URL"
    )
    alpaca_token_url: HttpUrl = setting(
        "https://api.alpaca.markets/oauth/token", "Alpaca's OAuth token endpoint.", unit="URL"
    )
    alpaca_requests_per_minute: int = setting(
        180, "Requests for one account; Alpaca allows 200.", unit="requests/min", ge=20, le=100_000
    )
    alpaca_dials_per_second: int = setting(
        5, "New trading streams per second: how fast accounts come back after a cut.", unit="dials/s", ge=1, le=1000
    )
    alpaca_poll_seconds: float = setting(
        10.0, "How often prices that no stream brings are asked for.", unit="s", ge=1, le=60
    )

    # the process
    lease_ttl: float = setting(
        15.0,
        "After so long without a sign of life other processes on the same Postgres take this one's sessions over;"
        " after two thirds of it without the database it stops them itself.",
        unit="s",
        ge=1,
        le=300,
    )
    process_capacity: int = setting(
        1000, "Sessions are shared out among processes in proportion to this.", unit="sessions", ge=1, le=1_000_000
    )
    bridge_transport: Annotated[Literal["websockets", "picows"], LOWER_CASE] = setting(
        "websockets", "What speaks WebSocket with the brokers; picows comes with the extra `fast`."
    )
    drain_seconds: float = setting(2.5, "Time to end in after SIGTERM.", unit="s", ge=0.5, le=300)
    session_idle_days: float = setting(
        30.0, "Sessions that nobody started or read for so long end; 0 = never.", unit="days", ge=0, le=3650
    )
    alert_webhook_url: SecretHttpUrl | None = setting(
        None, "Where alerts are posted as JSON (Discord, Slack and others).", unit="URL"
    )
    heartbeat_url: SecretHttpUrl | None = setting(None, "Fetched every minute while healthy.", unit="URL")
    sentry_dsn: SecretText | None = setting(None, "Sentry, with the extra `sentry` installed.")
    otel_exporter_otlp_endpoint: HttpUrl | None = setting(
        None, "OpenTelemetry collector (OTLP over HTTP), with the extra `otel` installed.", unit="URL"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], UPPER_CASE] = setting(
        "INFO", "Least severity that is logged."
    )
    log_format: Annotated[Literal["json", "console"], LOWER_CASE] = setting(
        "json", "json for machines, console for people."
    )

    # facts about the surroundings, not variables of ours
    paas: str | None = Field(None, json_schema_extra={"hidden": True})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for rule in (*rules_of(self), *self._application_rules()):
            if rule:
                raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return self

    def _application_rules(self) -> tuple[str | None, ...]:
        pairs = (
            ("CTRADER_CLIENT_ID", self.ctrader_client_id, "CTRADER_CLIENT_SECRET", self.ctrader_client_secret),
            ("ALPACA_CLIENT_ID", self.alpaca_client_id, "ALPACA_CLIENT_SECRET", self.alpaca_client_secret),
            ("ALPACA_DATA_KEY_ID", self.alpaca_data_key_id, "ALPACA_DATA_SECRET_KEY", self.alpaca_data_secret_key),
        )
        return tuple(
            f"{secret}: set both {name} and {secret}, or neither" if bool(value) != bool(hidden) else None
            for name, value, secret, hidden in pairs
        )

    @property
    def auth_open(self) -> bool:
        """Neither API keys nor a verifier of user tokens: every route is open, on loopback only."""
        return not (self.api_keys or self.supabase_jwt_secret or self.jwks_url)

    @property
    def supabase_key(self) -> Secret | None:
        """The key with full rights in the Supabase project."""
        return self.supabase_secret_key or self.supabase_service_role_key

    @property
    def token_issuer(self) -> str | None:
        """The iss that user tokens must have."""
        if self.jwt_issuer:
            return self.jwt_issuer
        if self.supabase_url:
            return f"{self.supabase_url.rstrip('/')}/auth/v1"
        return self.jwks_url.partition("/.well-known")[0] if self.jwks_url else None

    @property
    def return_urls(self) -> tuple[str, ...]:
        """Addresses that a browser may return to after connecting a broker."""
        return self.oauth_return_urls or self.cors_origins

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to bind."""
        return self.host or (("127.0.0.1",) if self.auth_open else ("0.0.0.0", "::"))  # noqa: S104 (behind API keys)

    @property
    def store_names(self) -> tuple[str, ...]:
        """The stores to build, primary first (the default rule of DESIGN §8)."""
        if self.cache_stores:
            return self.cache_stores
        implied = ["postgres"] if self.database_url else ["supabase"] if self.supabase_key else []
        return (*implied, *(["redis"] if self.redis_target is not None else [])) or ("memory",)

    @property
    def redis_target(self) -> Secret | None:
        """The URL of Redis, made of its parts when those were given."""
        if self.redis_url:
            return self.redis_url
        if not self.redis_host:
            return None
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        password = f":{quote(self.redis_password.reveal(), safe='')}@" if self.redis_password else ""
        return Secret(f"redis://{password}{host}:{self.redis_port}/0")

    @property
    def broker_urls(self) -> Mapping[str, str]:
        """The hosts that sessions connect to, by what they are (for `doctor`)."""
        return {
            "ctrader demo": self.ctrader_demo_url,
            "ctrader live": self.ctrader_live_url,
            "alpaca paper": self.alpaca_paper_url,
            "alpaca live": self.alpaca_live_url,
            **({} if self.alpaca_data_feed == "off" else {"alpaca data": self._data_stream}),
        }

    @property
    def _data_stream(self) -> str:
        return f"{self.alpaca_data_url.rstrip('/')}/v2/{self.alpaca_data_feed}"

    @property
    def clock_url(self) -> str:
        """A web server that keeps good time (for `doctor`, when no store can be asked)."""
        return self.ctrader_token_url

    @property
    def unconfigured_brokers(self) -> Mapping[str, tuple[str, ...]]:
        """Brokers that no session can start at, and the variables of an application that are missing for it."""
        needed = {"CTRADER_CLIENT_ID": self.ctrader_client_id, "CTRADER_CLIENT_SECRET": self.ctrader_client_secret}
        missing = tuple(name for name, value in needed.items() if not value)
        return {"ctrader": missing} if missing else {}

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every secret in the settings, for redaction; of the keys that seal also their bytes."""
        values = [getattr(self, name) for name in type(self).model_fields]
        keys = [entry.key for entry in self.token_encryption_keys]
        raw = [Secret(base64.b64decode(key.reveal()).decode("latin-1")) for key in keys]
        return (*(value for value in values if isinstance(value, Secret)), *keys, *raw)


def on_platform(environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the variable that shows a hosting platform, or None."""
    return next((name for name in PAAS_MARKS if environment.get(name)), None)


def load_settings(env_file: str | Path | None = ENV_FILE) -> Settings:
    """Read the environment (and `.env`, except on a platform). Raises ConfigurationError with one line."""
    platform = on_platform()
    env_file = None if platform else env_file
    try:
        _check_lines(env_file)
        return Settings(_env_file=env_file, _env_file_encoding=ENV_ENCODING, paas=platform)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_line(each) for each in error.errors(include_url=False))) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{env_file}: is not UTF-8 text") from None


def configured_api_key_secret(env_file: str | Path = ENV_FILE) -> Secret | None:
    """API_KEY_SECRET alone, while the rest is not complete yet: API_KEYS is made with it. Raises ConfigurationError."""
    in_file = {} if on_platform() else dotenv_values(env_file, encoding=ENV_ENCODING)
    value = os.environ.get("API_KEY_SECRET") or in_file.get("API_KEY_SECRET")
    if value and len(value) < SECRET_LENGTH:
        raise ConfigurationError(f"API_KEY_SECRET: must have at least {SECRET_LENGTH} characters")
    return Secret(value) if value else None


def _check_lines(env_file: str | Path | None) -> None:
    """Raise ConfigurationError for a line that the reader of the file would leave out with its setting."""
    path = None if env_file is None else Path(env_file)
    if path is None or not path.is_file():
        return
    with path.open(encoding=ENV_ENCODING) as file:
        wrong = next((each.original for each in parse_stream(file) if each.error), None)
    if wrong is not None:
        blank = wrong.string[: -len(wrong.string.lstrip())].count("\n")  # lines that it begins with
        raise ConfigurationError(f"{env_file}: line {wrong.line + blank} is not NAME=value")


def _line(error: Any) -> str:
    """`PORT: must be …` of one pydantic error, without the value."""
    rule = " ".join(str(error["msg"]).split())
    if not error["loc"]:
        return rule  # a rule over several variables names its own
    return f"{str(error['loc'][0]).upper()}: {rule[0].lower()}{rule[1:]}"
