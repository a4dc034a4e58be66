"""The audit log's processes, which tests start and kill."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event

from services.audit.ingest.job import Requests
from services.audit.ingest.relay import Relay
from services.audit.ingest.worker import run_worker
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.log.store import AuditLog
from shared.clock import now_ms
from shared.eventstore.ledger import Ledger
from shared.process.signals import set_by_signal
from shared.store.connections import connect


def work(store_url: str, database_url: str, key_file: Path) -> None:
    """`keyledger audit worker`."""
    log = AuditLog(database_url)
    store = connect(store_url)
    comparison = Comparison(log, Ledger(store), Alarms(store, log, now_ms))
    notary = Notary(comparison, Signer(key_file), now_ms)
    run_worker(connect(store_url, timeout=30), log, comparison.ledger, notary, comparison.alarms)


def relay(store_url: str, database_url: str, _: Path) -> None:
    """`keyledger audit relay`."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: set_by_signal(stop))
    ledger, requests = Ledger(connect(store_url, timeout=60)), Requests(connect(store_url))
    Relay(ledger, AuditLog(database_url), requests, now_ms).run(stop)


def started(
    target: Callable[[str, str, Path], None], store_url: str, database_url: str, key_file: Path
) -> BaseProcess:
    """Starts the target in its own process."""
    arguments = (store_url, database_url, key_file)
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    """Ends the process as `keyledger up` would, and returns its exit status."""
    process.terminate()
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


@contextmanager
def running(
    target: Callable[[str, str, Path], None], store_url: str, database_url: str, key_file: Path
) -> Iterator[BaseProcess]:
    """Runs a process, then ends it and checks that it exits cleanly."""
    process = started(target, store_url, database_url, key_file)
    try:
        yield process
    finally:
        status = ended(process)
    assert status == 0
