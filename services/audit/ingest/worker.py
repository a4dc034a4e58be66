"""The process that runs the audit log's jobs: an RQ worker that ignores all other commands."""

import time
from contextlib import suppress
from threading import Event as Stop
from types import TracebackType
from typing import Any

import structlog
from redis import Redis, RedisError, ResponseError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry

from services.audit.ingest.job import QUEUE, CatchUpJob, RefusedJobError, Requests, catch_up, job_class
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import MismatchError
from services.audit.integrity.findings import Finding, Kind
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import SigningError
from services.audit.log.store import AuditLog, GapError
from shared.eventstore.ledger import Ledger
from shared.process.signals import set_by_signal

_WORKER_TTL_S = 30
_MAINTENANCE_S = 10
_PAUSE_S = 1.0
_INDEX_PAGES_PER_JOB = 20  # takes some seconds, so that new events don't wait long
_STRAYS = 100  # IDs that RQ took from the queue and didn't remove because their worker died

_log = structlog.get_logger(__name__)


def run_worker(store: Redis, log: AuditLog, ledger: Ledger, notary: Notary, alarms: Alarms) -> None:
    """Runs jobs until SIGTERM or SIGINT, in the main thread. Waits while the store is unavailable.

    `store` must be a separate client, because RQ changes its timeout to that of blocking reads.
    """
    requests = Requests(store)

    def work() -> None:
        if caught_up(log, ledger, alarms):
            requests.ask()
        notary.sign_checkpoint_if_due()

    stop = Stop()
    # Once there is a worker, a signal raises StopRequested unless a job is running.
    with suppress(StopRequested):
        while not stop.is_set():
            _work(store, job_class(work), stop)


def caught_up(log: AuditLog, ledger: Ledger, alarms: Alarms) -> bool:
    """Catches up with the ledger, and raises an alarm if the log went backwards.

    Returns whether there may be more to append or index.
    """
    try:
        alarms.report_if_backwards()
    except ResponseError as error:  # an unreadable alarm must not stop the log
        _log.error("couldn't check whether the audit log went backwards", reason=str(error))
    try:
        is_behind = catch_up(log, ledger)
    except GapError as error:  # entries that this job just appended are missing
        alarms.report(Finding(Kind.CUT_OFF, error.wanted, str(error)))
        raise
    alarms.mark_end()
    return is_behind or _indexed_some(log)


def _indexed_some(log: AuditLog) -> bool:
    """Indexes entries that aren't searchable yet, some at a time. Returns whether there may be more."""
    is_behind = log.search.indexed() < log.last().position
    for _ in range(_INDEX_PAGES_PER_JOB):
        if not is_behind:
            break
        is_behind = log.index_some()
    return is_behind


def _work(store: Redis, jobs: type[CatchUpJob], stop: Stop) -> None:
    """Works until `stop` is set, or until RQ gives up because the store is unavailable."""
    try:
        worker = AuditWorker(
            [AuditQueue(QUEUE, connection=store, job_class=jobs, serializer=JSONSerializer)],
            connection=store,
            job_class=jobs,
            queue_class=AuditQueue,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_S,
        )
        worker.stop = stop
        worker.work(logging_level="WARNING")
    except RedisError as error:
        _log.warning("the store is unavailable; the audit worker waits for it", reason=str(error))
    stop.wait(_PAUSE_S)


class AuditQueue(Queue):  # type: ignore[misc]  # RQ publishes no types
    """A queue that ignores invalid job IDs and dependent jobs."""

    @classmethod
    def dequeue_any(cls, *arguments: Any, **options: Any) -> Any:
        """Returns the next job. Skips IDs that aren't valid."""
        while True:
            try:
                return super().dequeue_any(*arguments, **options)
            except ValueError as error:
                _log.warning("skipped an invalid job ID in the audit queue", reason=str(error))

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Does nothing: our job has no dependents."""
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Does nothing: our job has no dependents."""
        return {}


class AuditWorker(SimpleWorker):  # type: ignore[misc]  # RQ publishes no types
    """A worker that ignores RQ's commands, suspension and scheduling."""

    max_connection_wait_time = 2.0  # in seconds

    stop: Stop

    def request_stop(self, *_: Any) -> None:
        """Handles a signal: stops at once when idle, otherwise after the job."""
        set_by_signal(self.stop)
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested

    def subscribe(self) -> None:
        """Ignores commands."""

    def check_for_suspension(self, burst: bool) -> None:
        """Ignores the key in the store that suspends workers."""

    def run_maintenance_tasks(self) -> None:
        """Removes what finished jobs and dead workers left behind.

        RQ's own tasks would also enqueue jobs from its registries.
        """
        for queue in self.queues:
            try:
                _clean(queue)
            except (ValueError, ResponseError) as error:
                _log.warning("couldn't clean up after the audit worker", reason=str(error))
        self.last_cleaned_at = now()

    def handle_job_failure(self, *arguments: Any, exc_string: str = "", **options: Any) -> None:
        """Stores why a job failed, without the stack trace."""
        last_line = exc_string.rstrip().rpartition("\n")[2]
        reason = last_line.partition(": ")[2] or last_line
        super().handle_job_failure(*arguments, exc_string=reason, **options)

    def handle_exception(
        self, job: CatchUpJob, _: type[BaseException], error: BaseException, __: TracebackType
    ) -> None:
        """Logs in one line why a job failed."""
        if isinstance(error, RefusedJobError):
            _log.warning("refused a job", job=job.id, reason=str(error))
        elif isinstance(error, SigningError | MismatchError):
            _log.error("no checkpoint of the audit log was signed", reason=str(error))
        else:
            _log.error("the audit log couldn't catch up", reason=str(error) or repr(error))


def _clean(queue: AuditQueue) -> None:
    connection, started = queue.connection, queue.started_job_registry.key
    queue.finished_job_registry.cleanup()
    queue.failed_job_registry.cleanup()
    # Jobs of workers that died; the relay has enqueued others since.
    for execution in connection.zrangebyscore(started, 0, time.time()):
        connection.delete(Job.redis_job_namespace_prefix.encode() + execution.partition(b":")[0])
        connection.zrem(started, execution)
    connection.ltrim(queue.intermediate_queue_key, -_STRAYS, -1)
    clean_worker_registry(queue)
