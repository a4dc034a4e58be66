"""Alarms about the audit log: raised by whichever process notices, shown until an operator acknowledges them.

They are kept in the store, apart from the audit log's database, together with a high-water mark: how far the
log went, and the hash of the entry there. The audit worker moves the mark after each job. So a database that
was cut off, replaced or restored from an old copy is noticed, even though the worker fills it again.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec
import structlog
from redis import Redis, ResponseError

from services.audit.integrity.findings import Finding, Kind
from services.audit.log.audit_entry import hex_of
from services.audit.log.store import AuditLog
from shared.eventstore.ledger import NAMESPACE

_ALARM = f"{NAMESPACE}:audit:alarm"
_MARK = f"{NAMESPACE}:audit:end"

_log = structlog.get_logger(__name__)


class Alarm(NamedTuple):
    """What was noticed first since the last alarm was acknowledged, and when, in ms since 1970."""

    at: int
    finding: Finding


class _Mark(NamedTuple):
    """How far the log went, and the hash of its entry there."""

    position: int
    entry_hash: str


_encode = msgspec.json.Encoder().encode


class Alarms:
    """Raise, show and acknowledge alarms. Every method raises redis.RedisError and AuditDatabaseError."""

    def __init__(self, store: Redis, log: AuditLog, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._log = log
        self._now_ms = now_ms

    def current(self) -> Alarm | None:
        """The alarm that nobody has acknowledged, also if no process has raised it yet."""
        stored = self._stored(_ALARM)
        if stored is not None:
            return _read(stored)
        finding = self._went_backwards()
        return Alarm(self._now_ms(), finding) if finding else None

    def report(self, finding: Finding) -> None:
        """Raises an alarm. One that is raised already stays: it shows what was noticed first."""
        _log.error(
            "audit log alarm", kind=finding.kind.value, position=finding.position, reason=finding.detail
        )
        self._store.set(_ALARM, _encode(Alarm(self._now_ms(), finding)), nx=True)

    def report_if_backwards(self) -> None:
        """Raises an alarm if the log ends before its high-water mark, or has another entry there."""
        if finding := self._went_backwards():
            self.report(finding)

    def mark_end(self) -> None:
        """Moves the high-water mark to the end of the log."""
        last = self._log.last_entry()
        mark = _encode(_Mark(last.position, hex_of(last.entry_hash)) if last else _Mark(0, ""))
        if mark != self._stored(_MARK):
            self._store.set(_MARK, mark)

    def acknowledge(self) -> None:
        """Ends the alarm. The log as it is now is what it is compared with from now on."""
        self.mark_end()
        self._store.delete(_ALARM)

    def _stored(self, name: str) -> bytes | None:
        """What the store holds; no bytes, which nothing can be read from, of a list and the like."""
        try:
            return cast("bytes | None", self._store.get(name))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return b""

    def _went_backwards(self) -> Finding | None:
        # The mark is read before the log: an intact log only ever gets ahead of it.
        stored = self._stored(_MARK)
        if stored is None:
            return None
        try:
            mark = msgspec.json.decode(stored, type=_Mark)
        except msgspec.MsgspecError:
            return Finding(Kind.CHANGED, 0, "the high-water mark in the store can't be read")
        last = self._log.last_entry()
        end = last.position if last else 0
        if end < mark.position:
            detail = f"the log went up to position {mark.position}, and later ended at {end}"
            return Finding(Kind.CUT_OFF, end + 1, detail)
        if mark.position:
            _, entry_hash = self._log.links([mark.position]).get(mark.position, (None, None))
            if hex_of(entry_hash) != mark.entry_hash:
                return Finding(Kind.REWRITTEN, mark.position, "the log had a different entry here before")
        return None


def _read(stored: bytes) -> Alarm:
    try:
        return msgspec.json.decode(stored, type=Alarm)
    except msgspec.MsgspecError:
        return Alarm(0, Finding(Kind.CHANGED, 0, "the alarm in the store can't be read"))
