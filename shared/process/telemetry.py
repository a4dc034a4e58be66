"""Logs: one line per event, readable on a terminal and JSON elsewhere, without secrets."""

import logging
import os
import re
import select
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.clock import now_ms, rfc3339
from shared.text import key_detection as tokens

# What no line may contain, besides API keys; each with a substring to look for first, which most lines lack.
_SECRETS = (
    ("$argon2", re.compile(r"\$argon2[^\s\"']+"), "[password]"),
    ("://", re.compile(r"(?<=://)[^\s/?#@\"']*:[^\s/@\"']*(?=@)"), "[password]"),
    (
        "PRIVATE KEY",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END|\Z)", re.DOTALL),
        "[private key]",
    ),
)


# The lines of a block of `together`, and not of another thread.
_gathered: ContextVar[list[bytes] | None] = ContextVar("keyledger_gathered_lines", default=None)


def _stamped(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "timestamp" not in event:
        event["timestamp"] = rfc3339(now_ms())
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    _stamped,
]


class ErrorClock:
    """When the process last logged a warning or an error, in seconds since 1970; 0 if it never did."""

    def __init__(self) -> None:
        self.last_at = 0.0

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Notes the time; structlog calls this for each line."""
        if method in {"warning", "error", "critical", "exception"}:
            self.last_at = time.time()
        return event


def configure_logs(level: int = logging.INFO) -> ErrorClock:
    """Sends all log lines, also those of libraries, to standard error in one format."""
    rendering, errors = _rendering(), ErrorClock()
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for talkative in ("rq", "_granian"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    structlog.configure(
        processors=[errors, *_SHARED, *rendering],
        logger_factory=_StandardError,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    return errors


def redacted(text: str) -> str:
    """Removes what looks like a secret: API keys, password hashes, passwords in URLs, private keys."""
    for sign, secret, shown in _SECRETS:
        if sign in text:
            text = secret.sub(shown, text)
    return tokens.redacted(text)


def escaped(text: str, keep: str = "") -> str:
    """Escapes characters that a terminal would obey or hide, except spaces and those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in keep or unicodedata.category(each) == "Zs"
        else each.encode("unicode_escape").decode()
        for each in text
    )


@contextmanager
def together() -> Iterator[None]:
    """Writes the lines of the block at its end, in as few writes as keep each line in one piece."""
    lines: list[bytes] = []
    token = _gathered.set(lines)
    try:
        yield
    finally:
        _gathered.reset(token)
        step = b""
        for line in lines:
            if len(step) + len(line) > select.PIPE_BUF:
                _send(step)
                step = b""
            step += line
        _send(step)


def _write(line: str) -> None:
    encoded = line.encode(errors="backslashreplace") + b"\n"
    gathered = _gathered.get()
    if gathered is None:
        _send(encoded)
    else:
        gathered.append(encoded)


def _send(lines: bytes) -> None:
    """Writes to standard error at once. A reader that is gone is no reason to stop."""
    with suppress(OSError):
        os.write(2, lines)


class _Handler(logging.Handler):
    """Writes the lines of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(self.format(record))


class _StandardError:
    """Writes our lines, without `logging`, which takes several times as long as the rest of a line."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = error = critical = exception = msg


def _is_terminal() -> bool:
    return bool(sys.stderr and sys.stderr.isatty())  # none, as Python has it, where the caller closed it


def _rendering() -> list[Processor]:
    form = os.environ.get("KEYLEDGER_LOG_FORMAT", "").strip()
    form = form or ("text" if _is_terminal() else "json")
    if form == "text":
        # Plain tracebacks: the pretty ones print local variables, and a secret may be among them.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=_is_terminal(), exception_formatter=plain)
        return [structlog.processors.format_exc_info, _escaping, console, _redacting]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=repr, ensure_ascii=False),
        _redacting,
    ]


def _escaping(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        name: escaped(value, "\n" if name == "exception" else "") if isinstance(value, str) else value
        for name, value in event.items()
    }


def _redacting(_logger: WrappedLogger, _method: str, line: Any) -> Any:
    return redacted(line)
