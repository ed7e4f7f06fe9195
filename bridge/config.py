"""All settings, from the environment and, in development, `.env` (DESIGN §12). Nothing else reads the environment.

A wrong value stops the start with one line that names the variable and the rule; the value is never printed, since
it may be a secret. Invariant: a `Settings` that exists is consistent, the caller need not check it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.config_values import (
    LOWER_CASE,
    SECRET_LENGTH,
    UPPER_CASE,
    ApiKeys,
    HttpUrl,
    LongSecret,
    Origins,
    PublicUrl,
    RedisUrl,
    SecretText,
    SocketUrl,
    Words,
    is_loopback,
)
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode

VERSION = "0.1.0"
ENV_FILE = ".env"
ENV_ENCODING = "utf-8-sig"  # some editors begin a file with a mark that would become part of the first name
PAAS_MARKS = ("RAILWAY_ENVIRONMENT", "DYNO", "RENDER", "FLY_APP_NAME")
LATER_VARIABLES = (  # of DESIGN §12; set, they are named at start as not used yet
    *("DATABASE_SESSION_URL", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_KV_TABLE", "JWT_ISSUER"),
    *("JWT_AUDIENCE", "USER_ID_CLAIM", "CACHE_UNLOGGED", "TOKEN_ENCRYPTION_KEYS", "CTRADER_AUTH_URL", "CTRADER_QUOTES"),
    *("BRIDGE_TRANSPORT", "ALPACA_CLIENT_ID", "ALPACA_CLIENT_SECRET", "ALPACA_LIVE_URL", "ALPACA_PAPER_URL"),
    *("ALPACA_DATA_URL", "LEASE_TTL", "SESSION_IDLE_DAYS", "SENTRY_DSN", "ALERT_WEBHOOK_URL", "HEARTBEAT_URL"),
)
STORES = ("memory", "redis")
LATER_STORES = ("postgres", "supabase")


def setting(default: Any, description: str, *, unit: str = "", later: str = "", **rules: Any) -> Any:
    """A field: `later` says what needs it in a version to come; such a variable does not exist until it is set."""
    return Field(default, description=description, json_schema_extra={"unit": unit, "later": later}, **rules)


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

    # the cache
    redis_url: RedisUrl | None = setting(None, "Redis or Valkey; may hold a password.", unit="URL")
    redis_host: str | None = setting(None, "Redis host, instead of REDIS_URL.", unit="host")
    redis_port: int = setting(6379, "Redis port, with REDIS_HOST.", unit="port", ge=1, le=65535)
    redis_password: SecretText | None = setting(None, "Redis password, with REDIS_HOST.")
    cache_stores: Words = setting(
        (), "Stores for the records, the first is the primary. Empty: redis when configured, else memory.", unit="list"
    )
    cache_flush_interval: float = setting(2.0, "How often changed records are written.", unit="s", ge=0.25, le=4)
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
    trusted_proxy_hops: int = setting(
        0, "Proxies in front that append to X-Forwarded-For; 1 on most platforms.", unit="proxies", ge=0, le=10
    )

    # credentials
    bridge_credentials_file: Path | None = setting(None, "JSON file with users' broker credentials.", unit="path")

    # cTrader
    ctrader_client_id: str | None = setting(None, "Client id of the cTrader Open API application.")
    ctrader_client_secret: SecretText | None = setting(None, "Client secret of that application.")
    ctrader_live_url: SocketUrl = setting("wss://live.ctraderapi.com:5035", "cTrader's live host.", unit="URL")
    ctrader_demo_url: SocketUrl = setting("wss://demo.ctraderapi.com:5035", "cTrader's demo host.", unit="URL")
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

    # the process
    drain_seconds: float = setting(2.5, "Time to end in after SIGTERM.", unit="s", ge=0.5, le=300)
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], UPPER_CASE] = setting(
        "INFO", "Least severity that is logged."
    )
    log_format: Annotated[Literal["json", "console"], LOWER_CASE] = setting(
        "json", "json for machines, console for people."
    )

    # known by name only: what needs them comes with a later version
    database_url: SecretText | None = setting(None, "Postgres.", later="postgres store")
    supabase_url: str | None = setting(None, "Supabase.", later="supabase store")
    supabase_jwt_secret: SecretText | None = setting(None, "Supabase's JWT secret.", later="verifier of user tokens")
    jwks_url: str | None = setting(None, "Keys of the token issuer.", later="verifier of user tokens")

    # facts about the surroundings, not variables of ours
    paas: str | None = Field(None, json_schema_extra={"hidden": True})
    later_ignored: Annotated[tuple[str, ...], NoDecode] = Field((), json_schema_extra={"hidden": True})

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
        for rule in (*self._store_rules(), *self._caller_rules(), *self._other_rules()):
            if rule:
                raise PydanticCustomError("rule", "{rule}", {"rule": rule})
        return self

    def _store_rules(self) -> tuple[str | None, ...]:
        unknown = [name for name in self.cache_stores if name not in STORES + LATER_STORES]
        later = [name for name in self.store_names if name in LATER_STORES]
        implied = (
            "" if self.cache_stores else f" ({'DATABASE_URL' if self.database_url else 'SUPABASE_URL'} asks for it)"
        )
        return (
            f"CACHE_STORES: unknown store, use {', '.join(STORES)}" if unknown else None,
            "CACHE_STORES: a store is named twice" if len(set(self.cache_stores)) < len(self.cache_stores) else None,
            f"CACHE_STORES: this version has no {later[0]} store{implied}; name others, such as CACHE_STORES=redis"
            if later
            else None,
            "CACHE_STORES: redis needs REDIS_URL or REDIS_HOST"
            if "redis" in self.store_names and self.redis_target is None
            else None,
            "REDIS_HOST: set either REDIS_URL or REDIS_HOST, not both" if self.redis_url and self.redis_host else None,
        )

    def _caller_rules(self) -> tuple[str | None, ...]:
        verifier = "SUPABASE_JWT_SECRET" if self.supabase_jwt_secret else "JWKS_URL" if self.jwks_url else None
        open_door = "API_KEYS: every route would be open to everyone; set API_KEYS and API_KEY_SECRET"
        return (
            f"{verifier}: this version has no verifier of user tokens; unset it and use API_KEYS" if verifier else None,
            "API_KEY_SECRET: needed with API_KEYS" if self.api_keys and not self.api_key_secret else None,
            f"{open_door} (running on a platform: {self.paas} is set)" if self.paas and not self.api_keys else None,
            "HOST: without API_KEYS every route is open, so only loopback addresses may be bound"
            if not self.api_keys and not all(is_loopback(address) for address in self.host)
            else None,
        )

    def _other_rules(self) -> tuple[str | None, ...]:
        half = bool(self.ctrader_client_id) != bool(self.ctrader_client_secret)
        return (
            f"USER_KEY_SECRET: needed with USER_KEY_MODE={self.user_key_mode.value}"
            if self.user_key_mode is not UserKeyMode.SHA256 and not self.user_key_secret
            else None,
            "CTRADER_CLIENT_SECRET: set both CTRADER_CLIENT_ID and CTRADER_CLIENT_SECRET, or neither" if half else None,
        )

    @property
    def auth_open(self) -> bool:
        """No API keys: every route is open, on loopback only."""
        return not self.api_keys

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to bind."""
        return self.host or (("127.0.0.1",) if self.auth_open else ("0.0.0.0", "::"))  # noqa: S104 (behind API keys)

    @property
    def store_names(self) -> tuple[str, ...]:
        """The stores to build, primary first (the default rule of DESIGN §8)."""
        if self.cache_stores:
            return self.cache_stores
        implied = ["postgres"] if self.database_url else ["supabase"] if self.supabase_url else []
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
        return {"ctrader demo": self.ctrader_demo_url, "ctrader live": self.ctrader_live_url}

    @property
    def clock_url(self) -> str:
        """A web server that keeps good time (for `doctor`, when no store can be asked)."""
        return self.ctrader_token_url

    @property
    def missing_application(self) -> tuple[str, ...]:
        """The variables that an application needs and that are not set; without one no session can start."""
        needed = {"CTRADER_CLIENT_ID": self.ctrader_client_id, "CTRADER_CLIENT_SECRET": self.ctrader_client_secret}
        return tuple(name for name, value in needed.items() if not value)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every secret in the settings, for redaction; of a URL also the password in it."""
        values = [getattr(self, name) for name in type(self).model_fields]
        found = [value for value in values if isinstance(value, Secret)]
        return (*found, *(Secret(word) for value in found for word in _passwords(value.reveal())))


def on_platform(environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the variable that shows a hosting platform, or None."""
    return next((name for name in PAAS_MARKS if environment.get(name)), None)


def load_settings(env_file: str | Path | None = ENV_FILE) -> Settings:
    """Read the environment (and `.env`, except on a platform). Raises ConfigurationError with one line."""
    platform = on_platform()
    env_file = None if platform else env_file
    try:
        _check_lines(env_file)
        given = {**dotenv_values(env_file, encoding=ENV_ENCODING), **os.environ} if env_file else os.environ
        ignored = tuple(name for name in LATER_VARIABLES if given.get(name))
        return Settings(_env_file=env_file, _env_file_encoding=ENV_ENCODING, paas=platform, later_ignored=ignored)
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


def _passwords(text: str) -> set[str]:
    """The password of a URL, as it stands there and decoded; nothing when the text is no URL with one."""
    try:
        password = urlsplit(text).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


def _line(error: Any) -> str:
    """`PORT: must be …` of one pydantic error, without the value."""
    rule = " ".join(str(error["msg"]).split())
    if not error["loc"]:
        return rule  # a rule over several variables names its own
    return f"{str(error['loc'][0]).upper()}: {rule[0].lower()}{rule[1:]}"
