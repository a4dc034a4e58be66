"""What a process is told by its environment, read once and frozen."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from environs import EnvError, FileAwareEnv
from limits import RateLimitItem, parse

from shared.errors import UserFacingError

SECRET_LENGTH = 32  # characters, at least
PREFIX_RULE = "letters, digits and inner underscores, up to 16 characters"
_RATE = re.compile(r"[1-9]\d*\s*(/|per)\s*([1-9]\d*)?\s*[a-z]+", re.ASCII | re.IGNORECASE)
_HIGHEST_RATE = 10**9
_LONGEST_PERIOD_S = 366 * 24 * 60 * 60
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # int() takes underscores and the digits of all scripts
_BRACKETS = re.compile(r"\[([^\[\]]*:[^\[\]]*)\]")  # as in a URL around an IPv6 address
_PREFIX = re.compile(r"(?=.{1,16}\Z)[0-9A-Za-z]+(_[0-9A-Za-z]+)*")


class Setting(NamedTuple):
    """What operators are told of a setting. A default in backticks can be set as well, and is the same."""

    default: str
    meaning: str


# All that this process and the others read of `KEYLEDGER_*`. docs/operators.md has the same as a table.
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "DATA_DIR": Setting("`./data`", "where the embedded store, the audit log and its key lie"),
        "REDIS_URL": Setting("the embedded Valkey", "a Redis 7.0+ or Valkey 8+ of your own"),
        "AUDIT_DATABASE_URL": Setting(
            "SQLite in the data directory",
            "where the audit log is: `postgresql://…` for PostgreSQL 14+, with encoding UTF8",
        ),
        "AUDIT_KEY_FILE": Setting(
            "made in the data directory",
            "the Ed25519 key, in PEM, that signs for the audit log; for its owner alone",
        ),
        "HOST": Setting(
            "`127.0.0.1`",
            "the IP address that the web listens on; of a name its first, IPv4 before IPv6",
        ),
        "PORT": Setting("`8000`", "its port, 1 to 65535"),
        "SECRET_KEY": Setting(
            "made in the data directory",
            "authenticates cookies, forms and records of requests: 32 random characters or more, the same in "
            "every web process; demanded with a store of your own",
        ),
        "KEY_PREFIX": Setting(
            "`kl`", f"what new keys begin with: {PREFIX_RULE}; keys under another stay good"
        ),
        "RATE_LIMIT": Setting(
            "`300/second`",
            "requests of one key, or of one account on the dashboard, in each web process; `0` for none; "
            "verifying is not limited",
        ),
        "SIGN_IN_LIMIT": Setting(
            "`10/10 minutes`",
            "sign-ins to one account, and tries at the current password in one session; an IP address may "
            "sign in, and an owner may give passwords to people, five times as often; `0` for none",
        ),
        "TRUSTED_PROXIES": Setting(
            "`0`",
            "proxies in front, each of which appends to `X-Forwarded-For`, and appends to `-Proto` and "
            "`-Host` or replaces them: without it, all visitors seem to come from the proxy, and cookies are "
            "not `Secure`",
        ),
        "WORKERS": Setting(
            "2 or the number of CPUs, up to 8", "web processes that share the port; each has its own cache"
        ),
        "THREADS": Setting(
            "8 for each CPU, from 16 to 64",
            "requests that a web process works on at once; verify and forward-auth are not counted",
        ),
        "VERIFIER_KEYS": Setting("`100000`", "keys that a web process remembers for its verdicts"),
        "ALLOW_UNSAFE_STORE": Setting("`0`", "`1` takes a store that could lose events, with a warning"),
        "ACK_REPLICAS": Setting(
            "`0`", "how many replicas of the store must have an event before it is acknowledged"
        ),
        "LOG_FORMAT": Setting("`text` on a terminal, else `json`", "the form of the log lines"),
    }
)


class SettingsError(UserFacingError, ValueError):
    """A setting has no use as it stands; the message names it and says what it may be."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, with the defaults of a first start on one machine."""

    data_dir: Path
    redis_url: str | None  # None: the embedded server in the data directory
    audit_database_url: str | None  # None: SQLite in the data directory
    host: str
    port: int
    secret_key: str | None  # None: made and kept in the data directory
    key_prefix: str
    allow_unsafe_store: bool
    ack_replicas: int  # that must have an event before it is acknowledged
    verifier_keys: int  # that a web process remembers, to give verdicts from memory

    rate_limit: RateLimitItem | None = None  # of each caller, in each web process; None: none
    sign_in_limit: RateLimitItem | None = None  # of each account; None: none
    audit_key_file: Path | None = None  # None: in the data directory
    workers: int = 2  # web processes
    threads: int = 16  # requests that each of them works on at once
    trusted_proxies: int = 0  # in front, whose word on the visitor's address and on TLS is taken

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads `KEYLEDGER_*`, each of which may be in a file that `…_FILE` names. Raises SettingsError."""
        try:
            return cls._read(_Environment(prefix="KEYLEDGER_", strip_whitespace=True))
        except EnvError as error:
            raise SettingsError(str(error)) from error

    @classmethod
    def _read(cls, env: "_Environment") -> "Settings":
        data_dir = _path(env.str("DATA_DIR", "data"))
        key_file = env.str("AUDIT_KEY_FILE", "")
        redis_url = env.str("REDIS_URL", "") or None
        secret_key = env.str("SECRET_KEY", "") or None
        if redis_url and not secret_key:
            raise SettingsError(
                "KEYLEDGER_SECRET_KEY is not set. Every web process that shares the store of "
                "KEYLEDGER_REDIS_URL needs the same one: set it to 32 random characters or more."
            )
        if secret_key and len(secret_key) < SECRET_LENGTH:
            raise SettingsError(
                f"KEYLEDGER_SECRET_KEY has fewer than {SECRET_LENGTH} characters, so it can be guessed. Set "
                "it to what `openssl rand -hex 32` prints, the same in every web process."
            )
        if env.str("LOG_FORMAT", "text") not in {"text", "json"}:
            raise SettingsError("KEYLEDGER_LOG_FORMAT must be text or json.")
        prefix = env.str("KEY_PREFIX", "kl")
        if not _PREFIX.fullmatch(prefix):
            raise SettingsError(f"KEYLEDGER_KEY_PREFIX is {prefix!r}. Use {PREFIX_RULE}.")
        return cls(
            data_dir=data_dir,
            redis_url=redis_url,
            audit_database_url=env.str("AUDIT_DATABASE_URL", "") or None,
            audit_key_file=_path(key_file) if key_file else None,
            host=_BRACKETS.sub(r"\1", env.str("HOST", "127.0.0.1")),
            port=env.whole("PORT", 8000, 1, 65_535),
            secret_key=secret_key,
            key_prefix=prefix,
            allow_unsafe_store=env.switch("ALLOW_UNSAFE_STORE"),
            ack_replicas=env.whole("ACK_REPLICAS", 0, 0, 1_000),
            rate_limit=env.rate("RATE_LIMIT", "300/second"),
            sign_in_limit=env.rate("SIGN_IN_LIMIT", "10/10 minutes"),
            trusted_proxies=env.whole("TRUSTED_PROXIES", 0, 0, 100),
            workers=env.whole("WORKERS", min(max(2, _cpus()), 8), 1, 256),
            threads=env.whole("THREADS", min(max(16, 8 * _cpus()), 64), 1, 1_000),
            verifier_keys=env.whole("VERIFIER_KEYS", 100_000, 1, 1_000_000_000),
        )


class _Environment(FileAwareEnv):
    """The environment, and the files that it names. An empty variable or file is the same as none."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        try:
            value = super()._get_value(env_key, default)
            return default if isinstance(value, str) and not value.strip() else value
        except (OSError, ValueError) as error:  # ValueError: it is missing, or no text
            raise SettingsError(
                f"{env_key}_FILE isn't a readable text file: correct it, or set {env_key} itself."
            ) from error

    def whole(self, setting: str, default: int, least: int, most: int) -> int:
        """A whole number in a range."""
        text = self.str(setting, str(default))
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise SettingsError(f"KEYLEDGER_{setting} must be a whole number from {least} to {most}.")
        return int(text)

    def switch(self, setting: str) -> bool:
        """1 or 0, which is the default."""
        try:
            return self.bool(setting, False)
        except EnvError as error:
            raise SettingsError(f"KEYLEDGER_{setting} must be 1 or 0.") from error

    def rate(self, setting: str, default: str) -> RateLimitItem | None:
        """One rate as a whole, like 300/second; None for 0."""
        text = self.str(setting, default).strip()
        if text == "0":
            return None
        rate = None
        with suppress(ValueError):  # of a unit that is none
            # The parser takes what it knows and drops the rest, so the text as a whole is looked at first.
            rate = parse(text) if _RATE.fullmatch(text) else None
        if rate is None or rate.amount > _HIGHEST_RATE or rate.get_expiry() > _LONGEST_PERIOD_S:
            raise SettingsError(
                f"KEYLEDGER_{setting} is {text!r}; it must be one rate like 300/second or 10/10 minutes, "
                "or 0 for no limit."
            )
        return rate


def _cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # the working directory is gone, or nobody has that home
        raise SettingsError(
            f"The path {text!r} cannot be resolved: run this from a directory that exists, or set "
            "KEYLEDGER_DATA_DIR and KEYLEDGER_AUDIT_KEY_FILE to absolute paths."
        ) from error
