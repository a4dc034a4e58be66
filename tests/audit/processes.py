"""The audit log's processes, for tests to start and to kill."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from threading import Event

from services.audit.audit_log import AuditLog
from services.audit.jobs import Requests
from services.audit.relay import Relay
from services.audit.worker import run_worker
from shared.connections import connect
from shared.ledger import Ledger


def work(store_url: str, database_url: str) -> None:
    """`keyledger audit worker`."""
    run_worker(connect(store_url, timeout=30), AuditLog(database_url), Ledger(connect(store_url)))


def relay(store_url: str, database_url: str) -> None:
    """`keyledger audit relay`."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ledger, requests = Ledger(connect(store_url, timeout=5)), Requests(connect(store_url))
    Relay(ledger, AuditLog(database_url), requests).run(stop)


def started(target: Callable[[str, str], None], store_url: str, database_url: str) -> BaseProcess:
    """A process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=(store_url, database_url))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    """Ends it as `keyledger up` would, and gives its exit status."""
    process.terminate()
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


@contextmanager
def running(target: Callable[[str, str], None], store_url: str, database_url: str) -> Iterator[BaseProcess]:
    """A process for a while; it ends in order."""
    process = started(target, store_url, database_url)
    try:
        yield process
    finally:
        status = ended(process)
    assert status == 0
