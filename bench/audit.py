"""The audit log: delay of new events, rate of catching up with a backlog, and rate of the check."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from bench.delays import measured
from bench.events import event_of
from bench.figures import Figure, timed
from bench.store import fresh_store
from services.audit.integrity.signer import Signer
from services.audit.integrity.verify_log import Trust, check
from services.audit.log.entry import GENESIS, Entry
from services.audit.log.store import AuditLog
from shared.eventstore.codec import encode
from shared.eventstore.ledger import LOG, NAMESPACE, Ledger
from shared.store.connections import connect
from tests.support.processes import until

_REST_S = 0.002
_BACKLOG = 100_000  # events
_PAGE = 1_000


def figures() -> Iterator[Figure]:
    """Measures on SQLite, with relay and worker as separate processes."""
    with fresh_store() as url, tempfile.TemporaryDirectory(prefix="kl-bench-") as directory:
        log = AuditLog(f"sqlite:///{directory}/audit.db")
        with _running(url, directory), connect(url) as store:
            yield from measured("written to the audit log", store, lambda: log.last().position, _REST_S)
    with (
        fresh_store() as url,
        connect(url, timeout=60) as store,
        tempfile.TemporaryDirectory(prefix="kl-bench-") as directory,
    ):
        _fill(store)
        log = AuditLog(f"sqlite:///{directory}/audit.db")
        with _running(url, directory):
            rate = _caught_up(log)
        entries = list(log.walk(_BACKLOG))
        floor = _BACKLOG / _inserted(directory, entries)
        yield Figure(f"audit log, catching up with {_BACKLOG:,} events", rate, floor)
        signer = Signer(Path(directory) / "audit_key.pem")
        took = timed(lambda: _sound(log, Ledger(store), signer))
        yield Figure(
            "audit check, entries checked", _BACKLOG / took, _BACKLOG / timed(lambda: _hashed(entries))
        )
        log.close()


@contextmanager
def _running(url: str, directory: str) -> Iterator[None]:
    """Runs the relay and the worker."""
    environment = os.environ | {
        "KEYLEDGER_REDIS_URL": url,
        "KEYLEDGER_SECRET_KEY": "s" * 32,
        "KEYLEDGER_DATA_DIR": directory,
    }
    command = [sys.executable, "-m", "services.cli", "audit"]
    processes = [
        subprocess.Popen(
            [*command, name], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for name in ("worker", "relay")
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _fill(store: Redis) -> None:
    pipe = store.pipeline(transaction=False)
    for position in range(1, _BACKLOG + 1):
        key_id = f"{(position + 1) // 2:012d}"
        body = encode(event_of(key_id, 2 - position % 2))
        pipe.xadd(LOG, {"at": 1_790_000_000_000 + position, "event": body}, id="0-*")
        pipe.rpush(f"{NAMESPACE}:subject:key:{key_id}", position)
        if position % _PAGE == 0:
            pipe.execute()


def _caught_up(log: AuditLog) -> float:
    """Returns the events per second from the first batch to the last."""
    until(lambda: log.last().position > 0, 30)
    start, first = time.perf_counter(), log.last().position
    until(lambda: log.last().position == _BACKLOG, 120)
    return (_BACKLOG - first) / (time.perf_counter() - start)


def _inserted(directory: str, entries: list[Entry]) -> float:
    """Returns the seconds that plain inserts of the same rows take, with as many per transaction."""
    file = Path(directory) / "floor.db"
    with sqlite3.connect(file, isolation_level=None) as bare:
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        bare.execute(
            "CREATE TABLE entries (position INTEGER PRIMARY KEY, at, record, previous_hash, entry_hash)"
        )

        def insert() -> None:
            for first in range(0, len(entries), _PAGE):
                bare.execute("BEGIN IMMEDIATE")
                bare.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", entries[first : first + _PAGE])
                bare.execute("COMMIT")

        took = timed(insert)
    bare.close()
    return took


def _sound(log: AuditLog, ledger: Ledger, signer: Signer) -> None:
    assert check(log, ledger, Trust(signer.public_key, signer.anchor()), lambda *_: None).ok


def _hashed(entries: list[Entry]) -> None:
    """Computes only the hash chain of the same bytes."""
    sha256: Callable[[bytes], hashlib._Hash] = hashlib.sha256
    previous = GENESIS
    for entry in entries:
        previous = sha256(previous + entry.record).digest()
    assert previous == entries[-1].entry_hash
