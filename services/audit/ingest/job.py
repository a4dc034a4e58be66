"""The audit log's job: catch up with the ledger. And the job class that allows nothing else.

The job says only "catch up", so a lost, doubled or disordered one does no harm. What is in the queue is not
believed: whoever can write to the store can put there what they like.
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

QUEUE = "audit"  # one alone: on several, RQ would take jobs by BLPOP, which loses that of a worker who dies
PAGE = 1000
PAGES_PER_JOB = 20  # a second or two, so that a backlog never meets the time-out and a worker soon stops
TIMEOUT_S = 120
RESULT_TTL_S = 10
FAILURE_TTL_S = 60 * 60
QUEUED_TTL_S = 60 * 60  # a job that waited longer is gone; the relay sees the lag, and sends another

_MAX_REQUESTS = 20  # that a log line names

# The function that a stored job names. Relays and workers of other versions compare it too, so it stays as it
# is, though no module has this name any more.
FUNCTION = "services.audit.jobs.catch_up"
_CALL: bytes = JSONSerializer.dumps((FUNCTION, None, (), {}))
_DESCRIPTION = "catch up"

# What RQ writes of a job like ours. Any other field that is not empty is a wish that is not granted.
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
    """The ledger does not hold the event that the audit log ends with; nothing may be written."""

    def __init__(self, last: Checkpoint) -> None:
        super().__init__(
            f"the ledger does not hold the event at position {last.position} that the audit log ends with: "
            "an old copy of the store came back, or the audit log belongs to another. Nothing is written "
            "until the ledger holds it again; `keyledger audit check` says more"
        )


class RefusedJobError(Exception):
    """What was in the queue is not our job."""


def catch_up(log: AuditLog, ledger: Ledger, pages: int = PAGES_PER_JOB) -> bool:
    """Appends what the ledger has and the log has not, some pages of it; gives whether there is more.

    Each page is a transaction of its own. Raises LedgerWentBackwardsError, AuditDatabaseError,
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
    """The ids of the requests that a few events come from; of many they would be no help."""
    for record in records if len(records) <= _MAX_REQUESTS else ():
        with suppress(UnreadableEventError):
            yield open_envelope(record).request.id


def _following(ledger: Ledger, last: Checkpoint) -> list[Record]:
    """The next page of events. The log's last is read with them, to see that they do follow it."""
    if last == BEGINNING:
        return ledger.read(0, PAGE)
    records = ledger.read(last.position - 1, PAGE + 1)
    if not records or checkpoint_at(records[:1]) != last:
        raise LedgerWentBackwardsError(last)
    return records[1:]


class Requests:
    """The relay's side of the queue."""

    def __init__(self, store: Redis) -> None:
        self._queue = Queue(QUEUE, connection=store, serializer=JSONSerializer)

    def ask(self) -> bool:
        """Asks a worker to catch up, unless such a request waits already; gives whether it was needed."""
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


class CatchUpJob(Job):  # type: ignore[misc]  # RQ is not looked into for types
    """Runs our one function, and nothing else.

    It never imports what a job names: `work` is given by the worker's process. Of what the store holds it
    takes the job's id and status; the rest is compared with what we write ourselves, or left alone. So a
    forged job brings no callback, webhook, dependency, group, repeat, retry or rate limit into being: it
    fails with the reason, like any job that fails.
    """

    work: ClassVar[Callable[[], None]]

    refusal: str | None = None

    def refresh(self) -> None:
        """Reads the job. Raises NoSuchJobError, also where its key holds something else."""
        try:
            super().refresh()
        except ResponseError as error:
            raise NoSuchJobError(f"{self.key} holds no job") from error

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Takes nothing from the store but whether it is our job, and its status."""
        self.refusal = refusal(raw_data)
        self.data = _CALL
        self.description = _DESCRIPTION
        self.origin = QUEUE
        self.timeout = TIMEOUT_S
        self.result_ttl = RESULT_TTL_S
        self.failure_ttl = FAILURE_TTL_S
        self._status = _status(raw_data.get(b"status", b""))

    def perform(self) -> None:
        """Does the work. Raises RefusedJobError instead, if this is another job."""
        if self.refusal is not None:
            raise RefusedJobError(self.refusal)
        type(self).work()


def job_class(work: Callable[[], None]) -> type[CatchUpJob]:
    """The job class of a process that can do the work."""
    return type("CatchUpJob", (CatchUpJob,), {"work": staticmethod(work)})


def refusal(raw_data: Mapping[bytes, bytes]) -> str | None:
    """Why a job of the store is not ours, in words; None if it is."""
    data = _inflated(raw_data.get(b"data", b""))
    if data != _CALL:
        return f"it does not call {FUNCTION} without arguments, but holds {data[:200]!r}"
    unknown = sorted(name for name, value in raw_data.items() if value and name not in _HARMLESS)
    return f"it brings {', '.join(ascii(name.decode('latin-1')) for name in unknown)}" if unknown else None


def _inflated(data: bytes) -> bytes:
    """The data of a job, no more of it than is needed to tell ours from others."""
    try:
        return zlib.decompressobj().decompress(data, 4 * len(_CALL))
    except zlib.error:
        return data


def _status(stored: bytes) -> JobStatus:
    try:
        return JobStatus(stored.decode())
    except ValueError:
        return JobStatus.CREATED
