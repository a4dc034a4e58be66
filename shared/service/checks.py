"""Checks of an installation: what they return, and how the registry describes each one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from shared.eventstore.subscription import Lag
from shared.process.telemetry import redacted

if TYPE_CHECKING:
    from shared.service.installation import Installation

_MAX_LENGTH = 400  # characters


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"  # it works, but is at risk
    PROBLEM = "problem"
    SKIPPED = "skipped"  # the check couldn't run, for a reason that the finding gives


@dataclass(frozen=True)
class Finding:
    """What a check found, as a phrase, and how to fix it, in sentences."""

    level: Level
    found: str
    advice: str | None = None


class SkippedError(Exception):
    """A check can't run; the message is a phrase that says why."""


class Concern(Flag):
    """Who runs a check."""

    WEB = auto()  # `/readyz` of `keyledger web`
    AUDIT_WEB = auto()  # `/readyz` of `keyledger audit web`
    STATUS = auto()  # `/statusz`, the metrics and the log, every second
    DOCTOR = auto()  # `keyledger doctor`


READY = Concern.WEB | Concern.AUDIT_WEB
EVERYWHERE = Concern.STATUS | Concern.DOCTOR

Look: TypeAlias = "Callable[[Installation], Iterator[Finding]]"


class Check(NamedTuple):
    """A check, as one line of a registry.

    `fails_if` holds no name, IP address or path, because anyone who can reach `/readyz` may read it. `see` is
    the section of the runbooks that helps.
    """

    name: str
    look: Look
    concerns: Concern
    fails_if: str
    see: str


# Sections of the runbooks.
NOT_READY = "keyledger-is-not-ready"
FULL = "the-store-or-a-disk-is-full"
LEDGER = "the-ledger-went-backwards"
CLOCK = "a-clock-is-wrong"

WENT_BACKWARDS = "`keyledger audit check` says what is lost; docs/runbooks.md says what to do."


def ok(found: str) -> Finding:
    return Finding(Level.OK, _line(found))


def warning(found: str, advice: str) -> Finding:
    return Finding(Level.WARNING, _line(found), advice)


def problem(found: str, advice: str) -> Finding:
    return Finding(Level.PROBLEM, _line(found), advice)


def skipped(reason: str) -> Finding:
    return Finding(Level.SKIPPED, _line(reason))


def keeps_up(lag: Lag, advice: str) -> Finding:
    """Describes how far a reader is behind the ledger."""
    found = f"at position {lag.head - lag.events:,} of {lag.head:,}"
    if lag.is_long:
        return problem(f"{found}, {lag.ms / 1000:,.0f} s behind", advice)
    return ok(found if lag.events else "up to date")


def _line(text: str) -> str:
    """One printable line without secrets: some of the text comes from the store or the database."""
    printable = "".join(character if character.isprintable() else " " for character in redacted(text))
    return shorten(printable, _MAX_LENGTH, placeholder=" …").rstrip(".")
