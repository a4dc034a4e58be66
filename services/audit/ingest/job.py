"""The audit log's only job, "catch up with the ledger", and the job class that runs nothing else.

The job has no arguments, so it can be lost, duplicated or late without harm. Jobs in the queue aren't
trusted, because anyone who can write to the store can add them.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

import structlog
from redis import Redis, ResponseError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from services.audit.log.store import AuditLog
from shared.eventstore.codec import open_envelope
from shared.eventstore.envelope import Record, UnreadableEventError
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at

QUEUE = "audit"  # only one: for several, RQ uses BLPOP, which loses the job of a worker that dies
PAGE = 1000
PAGES_PER_JOB = 20  # takes a second or two, so that a backlog doesn't time out and a worker can stop soon
TIMEOUT_S = 120
RESULT_TTL_S = 10
FAILURE_TTL_S = 60 * 60
QUEUED_TTL_S = 60 * 60  # a job that waits longer is deleted; the relay notices the lag and sends another

_MAX_REQUESTS = 20  # in a log line

# The function that a stored job names. Relays and workers of other versions compare it, so it keeps the name
# of a module that no longer exists.
FUNCTION = "services.audit.jobs.catch_up"
_CALL: bytes = JSONSerializer.dumps((FUNCTION, None, (), {}))
_DESCRIPTION = "catch up"

# The fields that RQ writes for a job like ours. A job with any other field is refused.
_HARMLESS = frozenset(
    {
        b"created_at",
        b"data",
        b"description",
        b"ended_at",
        b"enqueued_at",
        b"failure_ttl",
        b"last_heartbeat",
        b"origin",
        b"result_ttl",
        b"started_at",
        b"status",
        b"timeout",
        b"ttl",
        b"worker_name",
    }
)

_log = structlog.get_logger(__name__)


class LedgerWentBackwardsError(Exception):
    """The ledger doesn't have the last event of the audit log, so nothing may be written."""

    def __init__(self, last: Checkpoint) -> None:
        super().__init__(
            f"the ledger doesn't have the last event of the audit log, at position {last.position}: "
            "an old copy of the store was restored, or the audit log belongs to another. Nothing is written "
            "until the ledger has it again; `keyledger audit check` shows more"
        )


class RefusedJobError(Exception):
    """A job in the queue isn't ours."""


def catch_up(log: AuditLog, ledger: Ledger, pages: int = PAGES_PER_JOB) -> bool:
    """Appends pages of new events to the log. Returns whether there may be more.

    Each page is a separate transaction. Raises LedgerWentBackwardsError, AuditDatabaseError,
    redis.RedisError.
    """
    last = log.last()
    for _ in range(pages):
        records = _following(ledger, last)
        if records:
            appended = log.append(records)
            last = checkpoint_at(records)
            _log.info(
                "appended to the audit log",
                events=appended,
                position=last.position,
                requests=[*_requests(records)],
            )
        if len(records) < PAGE:
            return False
    return True


def _requests(records: Sequence[Record]) -> Iterator[str]:
    """The IDs of the requests that caused the events, if there are only a few."""
    for record in records if len(records) <= _MAX_REQUESTS else ():
        with suppress(UnreadableEventError):
            yield open_envelope(record).request.id


def _following(ledger: Ledger, last: Checkpoint) -> list[Record]:
    """The next page of events, read with the log's last event to verify that they follow it."""
    if last == BEGINNING:
        return ledger.read(0, PAGE)
    records = ledger.read(last.position - 1, PAGE + 1)
    if not records or checkpoint_at(records[:1]) != last:
        raise LedgerWentBackwardsError(last)
    return records[1:]


class Requests:
    """Enqueues jobs."""

    def __init__(self, store: Redis) -> None:
        self._queue = Queue(QUEUE, connection=store, serializer=JSONSerializer)

    def ask(self) -> bool:
        """Enqueues a job, unless one is waiting already. Returns whether it did."""
        if self._queue.connection.llen(self._queue.key):
            return False
        self._queue.enqueue(
            FUNCTION,
            description=_DESCRIPTION,
            job_timeout=TIMEOUT_S,
            result_ttl=RESULT_TTL_S,
            failure_ttl=FAILURE_TTL_S,
            ttl=QUEUED_TTL_S,
        )
        return True


class CatchUpJob(Job):  # type: ignore[misc]  # RQ publishes no types
    """Runs our one function, and nothing else.

    It never imports what a job names: the worker's process sets `work`. It reads only the job's ID and status
    from the store, and compares the rest with what we write. So a forged job can't add a callback, webhook,
    dependency, group, repetition, retry or rate limit: it fails with the reason, like any failed job.
    """

    work: ClassVar[Callable[[], None]]

    refusal: str | None = None

    def refresh(self) -> None:
        """Reads the job. Raises NoSuchJobError, also if the key isn't a job."""
        try:
            super().refresh()
        except ResponseError as error:
            raise NoSuchJobError(f"{self.key} isn't a job") from error

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Reads only whether it is our job, and its status."""
        self.refusal = refusal(raw_data)
        self.data = _CALL
        self.description = _DESCRIPTION
        self.origin = QUEUE
        self.timeout = TIMEOUT_S
        self.result_ttl = RESULT_TTL_S
        self.failure_ttl = FAILURE_TTL_S
        self._status = _status(raw_data.get(b"status", b""))

    def perform(self) -> None:
        """Does the work. Raises RefusedJobError if this isn't our job."""
        if self.refusal is not None:
            raise RefusedJobError(self.refusal)
        type(self).work()


def job_class(work: Callable[[], None]) -> type[CatchUpJob]:
    """The job class that does the work in this process."""
    return type("CatchUpJob", (CatchUpJob,), {"work": staticmethod(work)})


def refusal(raw_data: Mapping[bytes, bytes]) -> str | None:
    """Why a job in the store isn't ours, in words; None if it is."""
    data = _inflated(raw_data.get(b"data", b""))
    if data != _CALL:
        return f"it doesn't call {FUNCTION} without arguments, but has {data[:200]!r}"
    unknown = sorted(name for name, value in raw_data.items() if value and name not in _HARMLESS)
    return (
        f"it has the fields {', '.join(ascii(name.decode('latin-1')) for name in unknown)}"
        if unknown
        else None
    )


def _inflated(data: bytes) -> bytes:
    """The data of a job, up to the length that is needed to recognize ours."""
    try:
        return zlib.decompressobj().decompress(data, 4 * len(_CALL))
    except zlib.error:
        return data


def _status(stored: bytes) -> JobStatus:
    try:
        return JobStatus(stored.decode())
    except ValueError:
        return JobStatus.CREATED
