"""The settings, read from the environment once and frozen: each is one field of `Settings`."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

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
_KEPT = frozenset({"audit.db", "audit_key.pem", "secret_key", "store"})  # in a data directory in use

_T = TypeVar("_T")


class SettingsError(UserFacingError, ValueError):
    """A setting is invalid; the message names it and says what is allowed."""


class _Environment(FileAwareEnv):
    """The environment, and the files that it names. An empty variable or file counts as unset."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        try:
            value = super()._get_value(env_key, default)
            return default if isinstance(value, str) and not value.strip() else value
        except (OSError, ValueError) as error:  # ValueError: it is missing, or isn't text
            raise SettingsError(
                f"{env_key}_FILE isn't a readable text file: correct it, or set {env_key} itself."
            ) from error


class Setting(NamedTuple):
    """What is documented of a setting. A default in backticks can be set explicitly, to the same effect."""

    default: str
    meaning: str
    read: Callable[[_Environment, str], Any]  # the value, by the name without KEYLEDGER_


def _setting(read: Callable[[_Environment, str], _T], default: str, meaning: str) -> _T:
    """Declares a field of `Settings`, which has no default but the one that `read` uses."""
    declared: _T = field(metadata={"setting": Setting(default, meaning, read)})
    return declared


def _text(default: str) -> Callable[[_Environment, str], str]:
    return lambda env, name: str(env.str(name, default))


def _optional(env: _Environment, name: str) -> str | None:
    return env.str(name, "") or None


def _data_dir(env: _Environment, name: str) -> Path:
    text = env.str(name, "")
    if not text and (_is_clone() or _is_kept_here()):
        text = "data"
    home = os.environ.get("XDG_DATA_HOME", "")  # to be ignored unless it is absolute
    return _absolute(text or f"{home if home.startswith('/') else '~/.local/share'}/keyledger")


def _is_clone() -> bool:
    with suppress(OSError, ValueError):
        return 'name = "keyledger"' in Path("pyproject.toml").read_text("utf-8").splitlines()
    return False


def _is_kept_here() -> bool:
    """Returns whether `./data` is empty or has Keyledger's files, rather than those of another project."""
    try:
        found = {each.name for each in Path("data").iterdir()}
    except PermissionError:
        return True  # so that Keyledger fails, and doesn't start from scratch elsewhere
    except OSError:
        return False
    return not found or not found.isdisjoint(_KEPT)


def _optional_path(env: _Environment, name: str) -> Path | None:
    text = env.str(name, "")
    return _absolute(text) if text else None


def _host(env: _Environment, name: str) -> str:
    return _BRACKETS.sub(r"\1", env.str(name, "127.0.0.1"))


def _whole(default: int | Callable[[], int], least: int, most: int) -> Callable[[_Environment, str], int]:
    """A whole number in a range."""

    def read(env: _Environment, name: str) -> int:
        text = env.str(name, str(default() if callable(default) else default))
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise SettingsError(f"KEYLEDGER_{name} must be a whole number from {least} to {most}.")
        return int(text)

    return read


def _switch(env: _Environment, name: str) -> bool:
    try:
        return env.bool(name, False)
    except EnvError as error:
        raise SettingsError(f"KEYLEDGER_{name} must be 1 or 0.") from error


def _rate(default: str) -> Callable[[_Environment, str], RateLimitItem | None]:
    """One rate, such as 300/second; None for 0."""

    def read(env: _Environment, name: str) -> RateLimitItem | None:
        text = env.str(name, default).strip()
        if text == "0":
            return None
        rate = None
        with suppress(ValueError):  # of an unknown unit
            # The parser takes what it knows and drops the rest, so the text as a whole is matched first.
            rate = parse(text) if _RATE.fullmatch(text) else None
        if rate is None or rate.amount > _HIGHEST_RATE or rate.get_expiry() > _LONGEST_PERIOD_S:
            raise SettingsError(
                f"KEYLEDGER_{name} is {text!r}; it must be one rate like 300/second or 10/10 minutes, "
                "or 0 for no limit."
            )
        return rate

    return read


def _secret(env: _Environment, name: str) -> str | None:
    secret = _optional(env, name)
    if env.str("REDIS_URL", "") and not secret:
        raise SettingsError(
            "KEYLEDGER_SECRET_KEY is not set. Every web process that shares the store of "
            "KEYLEDGER_REDIS_URL needs the same one: set it to 32 random characters or more."
        )
    if secret and len(secret) < SECRET_LENGTH:
        raise SettingsError(
            f"KEYLEDGER_SECRET_KEY has fewer than {SECRET_LENGTH} characters, so it can be guessed. Set "
            "it to what `openssl rand -hex 32` prints, the same in every web process."
        )
    return secret


def _prefix(env: _Environment, name: str) -> str:
    prefix: str = env.str(name, "kl")
    if not _PREFIX.fullmatch(prefix):
        raise SettingsError(f"KEYLEDGER_KEY_PREFIX is {prefix!r}. Use {PREFIX_RULE}.")
    return prefix


def _log_format(env: _Environment, name: str) -> str | None:
    form = _optional(env, name)
    if form not in {None, "text", "json"}:
        raise SettingsError("KEYLEDGER_LOG_FORMAT must be text or json.")
    return form


def _cpus() -> int:
    """Returns how many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _absolute(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # the working directory is gone, or that user has no home
        raise SettingsError(
            f"The path {text!r} cannot be resolved: run this from a directory that exists, or set "
            "KEYLEDGER_DATA_DIR and KEYLEDGER_AUDIT_KEY_FILE to absolute paths."
        ) from error


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting: how it is read, its documented default, and its meaning.

    `docs/operators.md` has the same as a table, which `python -m tests.documents` writes.
    """

    data_dir: Path = _setting(
        _data_dir,
        "`./data` in a clone, else `~/.local/share/keyledger`",
        "Directory of the embedded store, the audit log and its signing key. Outside a clone, `./data` is "
        "used if it is empty or has Keyledger's files, and `XDG_DATA_HOME` replaces `~/.local/share`.",
    )
    redis_url: str | None = _setting(
        _optional, "the embedded Valkey", "URL of your own Redis 7.0+ or Valkey 8+."
    )
    audit_database_url: str | None = _setting(
        _optional,
        "SQLite in the data directory",
        "URL of the audit log's database: `postgresql://…` for PostgreSQL 14+, with encoding UTF8.",
    )
    audit_key_file: Path | None = _setting(
        _optional_path,
        "created in the data directory",
        "File with the Ed25519 private key, in PEM, that signs the audit log. Only its owner may read it.",
    )
    host: str = _setting(
        _host,
        "`127.0.0.1`",
        "IP address that the web processes listen on. For a host name, its first one, IPv4 before IPv6.",
    )
    port: int = _setting(
        _whole(8000, 1, 65_535), "`8000`", "Port that the web processes listen on, from 1 to 65535."
    )
    metrics_port: int = _setting(
        _whole(0, 0, 65_000),
        "`0`",
        "Port for `/metrics` of a projector, relay or worker that runs alone on its machine. With "
        "`keyledger up`, the projector uses this port, and relay and worker the next two. `0`: none.",
    )
    secret_key: str | None = _setting(
        _secret,
        "created in the data directory",
        "Authenticates cookies, forms, sessions and idempotency records. 32 random characters or more, the "
        "same in every web process. Required with your own store.",
    )
    key_prefix: str = _setting(
        _prefix, "`kl`", f"Prefix of new keys: {PREFIX_RULE}. Keys with another prefix keep working."
    )
    rate_limit: RateLimitItem | None = _setting(
        _rate("300/second"),
        "`300/second`",
        "Requests by one key, or by one account on the dashboard, in each web process. `0`: no limit. "
        "Verification isn't limited.",
    )
    sign_in_limit: RateLimitItem | None = _setting(
        _rate("10/10 minutes"),
        "`10/10 minutes`",
        "Sign-in attempts per account, and attempts at the current password per session. The limit for "
        "sign-in attempts per IP address, and for passwords set by one owner, is five times as high. `0`: no "
        "limit.",
    )
    trusted_proxies: int = _setting(
        _whole(0, 0, 100),
        "`0`",
        "Number of proxies in front. Each must append to `X-Forwarded-For`, and append to or replace "
        "`-Proto` and `-Host`. If this is `0` behind a proxy, all visitors seem to come from the proxy, and "
        "cookies aren't `Secure`.",
    )
    workers: int = _setting(
        _whole(lambda: min(max(2, _cpus()), 8), 1, 256),
        "2 or the number of CPUs, up to 8",
        "Web processes that share the port. Each has its own cache.",
    )
    threads: int = _setting(
        _whole(lambda: min(max(16, 8 * _cpus()), 64), 1, 1_000),
        "8 per CPU, from 16 to 64",
        "Requests that a web process handles at once, not counting verify and forward-auth.",
    )
    verifier_keys: int = _setting(
        _whole(100_000, 1, 1_000_000_000), "`100000`", "Keys that a web process caches for verification."
    )
    allow_unsafe_store: bool = _setting(
        _switch, "`0`", "`1` accepts a store that could lose events, with a warning."
    )
    ack_replicas: int = _setting(
        _whole(0, 0, 1_000),
        "`0`",
        "Replicas of the store that must have an event before it's acknowledged.",
    )
    log_format: str | None = _setting(
        _log_format, "`text` on a terminal, else `json`", "Format of the log lines."
    )

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads `KEYLEDGER_*`, each of which may be in a file that `…_FILE` names. Raises SettingsError."""
        env = _Environment(prefix="KEYLEDGER_", strip_whitespace=True)
        try:
            return cls(**{name.lower(): setting.read(env, name) for name, setting in SETTINGS.items()})
        except EnvError as error:
            raise SettingsError(str(error)) from error


def _declared() -> Iterator[tuple[str, Setting]]:
    for each in fields(Settings):
        yield each.name.upper(), each.metadata["setting"]


SETTINGS: Mapping[str, Setting] = MappingProxyType(dict(_declared()))
