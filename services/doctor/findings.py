"""What a check finds, and for whatever is not as it should be, what to do."""

from dataclasses import dataclass
from enum import StrEnum
from textwrap import shorten

from shared.process.telemetry import redacted

_LONGEST = 400  # characters


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and could come to harm
    PROBLEM = "problem"
    SKIPPED = "skipped"  # nobody can tell, for a reason that is given


@dataclass(frozen=True)
class Finding:
    """What was found, a phrase, and what to do about it, in sentences."""

    level: Level
    found: str
    advice: str | None = None


class SkippedError(Exception):
    """A check cannot be made; the message is a phrase that says why."""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, _line(found))


def warning(found: str, advice: str) -> Finding:
    """It works, and could come to harm."""
    return Finding(Level.WARNING, _line(found), advice)


def problem(found: str, advice: str) -> Finding:
    """Something does not work, or is open to whom it should not."""
    return Finding(Level.PROBLEM, _line(found), advice)


def skipped(reason: str) -> Finding:
    """Nobody can tell."""
    return Finding(Level.SKIPPED, _line(reason))


def _line(text: str) -> str:
    """Some of it comes from store and database: it may hold a secret, or tell a terminal what to do."""
    printable = "".join(character if character.isprintable() else " " for character in redacted(text))
    return shorten(printable, _LONGEST, placeholder=" …").rstrip(".")
