"""The checks of the audit log's queue and worker. RQ's own queries would change the queue."""

from collections.abc import Iterator
from typing import cast

from redis import Redis
from rq import Queue
from rq.worker_registration import get_keys

from services.audit.ingest.failures import Failures
from services.audit.ingest.job import QUEUE
from shared.clock import now_ms, parse_rfc3339
from shared.service.checks import Finding, ok, problem, warning
from shared.service.installation import Installation

_SILENT_S = 60  # a healthy worker sends a heartbeat every 15 s


def check_queue(installation: Installation) -> Iterator[Finding]:
    """Checks for waiting and failed jobs."""
    failures = Failures(installation.store)
    waiting, failed = failures.waiting(), failures.count(now_ms())
    if failed:
        newest = failures.newest(1)
        reason = newest[0].reason if newest else "unknown"
        yield warning(
            f"{failed} failed within the last hour, the newest because: {reason}",
            "`keyledger audit status` lists them all. Failed jobs are retried automatically.",
        )
    if waiting > 1:
        yield warning(
            f"{waiting} jobs wait, and no more than one should",
            "Make sure that `keyledger audit worker` runs, and that nothing else writes to the store.",
        )
    if not failed and waiting <= 1:
        yield ok(f"{waiting} waiting, none failed within the last hour")


def check_worker(installation: Installation) -> Iterator[Finding]:
    """Checks whether an audit worker runs."""
    beats = _heartbeats(installation.store)
    if not beats:
        yield problem(
            "no audit worker runs", "Start `keyledger audit worker`: nothing is written to the audit log."
        )
        return
    silent = (now_ms() - max(beats)) / 1000
    if silent > _SILENT_S:
        yield problem(
            f"the audit worker has been silent for {silent:.0f} s",
            "See what `keyledger audit worker` prints, and restart it.",
        )
    else:
        yield ok(f"last heartbeat {max(silent, 0):.0f} s ago")


def _heartbeats(store: Redis) -> list[int]:
    """Returns each worker's last heartbeat, in ms since 1970."""
    values = (store.hget(key, "last_heartbeat") for key in get_keys(Queue(QUEUE, connection=store)))
    return [parse_rfc3339(cast("bytes", value).decode()) for value in values if value]
