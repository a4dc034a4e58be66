"""The audit log's processes, for tests to start and to kill."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event

from services.audit.alarms import Alarms
from services.audit.audit_log import AuditLog
from services.audit.comparison import Comparison
from services.audit.jobs import Requests
from services.audit.relay import Relay
from services.audit.signing import Signer
from services.audit.vouching import Notary
from services.audit.worker import run_worker
from services.parts import now_ms
from shared.connections import connect
from shared.ledger import Ledger
from shared.stopping import set_by_signal


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
    """A process of its own."""
    arguments = (store_url, database_url, key_file)
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
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
def running(
    target: Callable[[str, str, Path], None], store_url: str, database_url: str, key_file: Path
) -> Iterator[BaseProcess]:
    """A process for a while; it ends in order."""
    process = started(target, store_url, database_url, key_file)
    try:
        yield process
    finally:
        status = ended(process)
    assert status == 0
