"""Runs one operation at a time in a process that is killed at a chosen crash point.

`python -m tests.support.crashes` reads operations as JSON lines, and forks a process for each from one that
has imported everything and has no threads or connections.
"""

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from redis.connection import AbstractConnection
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from services.audit.ingest import job as jobs
from services.audit.ingest import worker
from services.audit.ingest.job import Requests, catch_up
from services.audit.ingest.relay import Relay
from services.audit.ingest.worker import run_worker
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.log.store import AuditLog
from services.keys.commands import KeyCommands
from services.keys.model.key import ChangeKey
from services.keys.read_model import projector
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.keys.read_model.rebuild import build
from services.keys.read_model.rebuild import replay as replaying
from services.keys.read_model.rebuild.replay import replay
from shared.clock import now_ms
from shared.eventstore.ledger import Ledger
from shared.process.telemetry import configure_logs
from shared.service.components import new_id
from shared.store.connections import connect
from shared.store.idempotency import Idempotency
from tests.support.principals import REQUEST, new_key, principal

PAGE = 2  # events; small, so that a few events fill several batches
ONCE = Idempotency.of("crash", "one", b"POST /v1/keys")
_ROOT = Path(__file__).parents[2]

Note = Callable[[str], None]  # records what was acknowledged before anything else happens


@dataclass(frozen=True)
class Place:
    """The components that an operation uses."""

    store_url: str
    database_url: str
    key_file: str

    def notary(self, log: AuditLog) -> Notary:
        """Signs checkpoints."""
        comparison = Comparison(log, self.ledger, self.alarms(log))
        return Notary(comparison, Signer(Path(self.key_file)), now_ms)

    def alarms(self, log: AuditLog) -> Alarms:
        """Raises alarms."""
        return Alarms(connect(self.store_url, timeout=5), log, now_ms)

    @property
    def ledger(self) -> Ledger:
        """The ledger, on its own connection."""
        return Ledger(connect(self.store_url, timeout=5), secret_key="a secret of 32 characters at least")

    @property
    def views(self) -> Views:
        """The views, on their own connection."""
        return Views(connect(self.store_url))


@dataclass(frozen=True)
class Ending:
    """The crash point at which an operation was killed, or the number of its crash points if it completed."""

    killed: str | None = None
    moments: int = 0
    acknowledged: list[str] = field(default_factory=list)


def append(place: Place, note: Note) -> None:
    """Creates a key, disables it and enables it again."""
    commands = KeyCommands(place.ledger, "kl", secrets.randbelow, new_id, now_ms)
    created = commands.create(principal(), new_key(name="one"), REQUEST, ONCE)
    note(f"{created.position} {created.key.id}")
    for enabled in (False, True):
        switched = commands.change(principal(), created.key.id, ChangeKey(enabled=enabled), REQUEST)
        note(f"{switched.position} {created.key.id}")


def project(place: Place, _: Note) -> None:
    """Projects batch after batch until none is left."""
    working = Projector(place.ledger, place.views)
    while working.step(wait_ms=1):
        pass


def rebuild_views(place: Place, _: Note) -> None:
    """Rebuilds the views."""
    replay(place.ledger, place.views)


def relay(place: Place, _: Note) -> None:
    """Notifies the audit worker of new events until there are none."""
    requests = Requests(connect(place.store_url))
    relaying = Relay(place.ledger, AuditLog(place.database_url), requests, now_ms)
    relaying.step(wait_ms=1)
    relaying.step(wait_ms=1)


def audit(place: Place, _: Note) -> None:
    """Brings the audit log up to date without a queue, and signs a checkpoint."""
    log = AuditLog(place.database_url)
    catch_up(log, place.ledger)
    place.notary(log).sign_checkpoint()


def work(place: Place, _: Note) -> None:
    """Runs an audit worker for one job, from its start to its end."""

    def once(log: AuditLog, ledger: Ledger) -> bool:
        more = catch_up(log, ledger)
        os.kill(os.getpid(), signal.SIGTERM)
        return more

    _replace(worker, catch_up=once)
    log = AuditLog(place.database_url)
    store = connect(place.store_url, timeout=5)
    run_worker(store, log, place.ledger, place.notary(log), place.alarms(log))


OPERATIONS: dict[str, Callable[[Place, Note], None]] = {
    "append": append,
    "project": project,
    "rebuild": rebuild_views,
    "relay": relay,
    "audit": audit,
    "work": work,
}


class Crasher:
    """The process that runs the operations."""

    def __init__(self, process: "subprocess.Popen[str]", journal: Path) -> None:
        self._process = process
        self._journal = journal

    def run(self, operation: str, place: Place, kill_at: int = 0) -> Ending:
        """Runs an operation, and kills it at a crash point. 0 means never."""
        assert self._process.stdin
        assert self._process.stdout
        self._journal.unlink(missing_ok=True)
        order = {"operation": operation, "place": asdict(place), "kill_at": kill_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        ending = _read(self._journal)
        assert status == (-signal.SIGKILL if ending.killed else 0), (operation, kill_at, status, ending)
        return ending


@contextmanager
def crasher(directory: Path) -> Iterator[Crasher]:
    """Runs a process that accepts operations."""
    journal = directory / "journal"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.crashes", str(journal)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Crasher(process, journal)


class _Fuse:
    """Counts the crash points of an operation, and kills its process at one of them.

    The journal is a file, for what is written to it stays when the writer is killed.
    """

    def __init__(self, journal: Path, kill_at: int) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kill_at = kill_at
        self._lock = Lock()
        self._moments = 0

    def moment(self, name: str) -> None:
        """Counts one crash point."""
        with self._lock:
            self._moments += 1
            if self._moments == self._kill_at:
                self._write("killed", name)
                os.kill(os.getpid(), signal.SIGKILL)

    def acknowledged(self, what: str) -> None:
        """Records it."""
        self._write("acknowledged", what)

    def complete(self) -> None:
        """Records that the operation has completed."""
        self._write("moments", str(self._moments))

    def _write(self, kind: str, text: str) -> None:
        os.write(self._journal, f"{kind} {text}\n".encode())


def _read(journal: Path) -> Ending:
    lines = [line.partition(" ")[::2] for line in journal.read_text().splitlines()]
    last = dict(lines)
    acknowledged = [text for kind, text in lines if kind == "acknowledged"]
    return Ending(last.get("killed"), int(last.get("moments", 0)), acknowledged)


def _count_store_calls(fuse: _Fuse) -> None:
    """Adds crash points before each command is sent, before its reply is read, and after its reply."""
    connections: Any = AbstractConnection
    send, read = connections.send_packed_command, connections.read_response
    latest = ""

    def counted_send(connection: Any, command: Any, *arguments: Any, **options: Any) -> None:
        nonlocal latest
        latest = _name(command)
        fuse.moment(f"before {latest}")
        send(connection, command, *arguments, **options)
        fuse.moment(f"sent {latest}")

    def counted_read(connection: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return read(connection, *arguments, **options)
        finally:
            fuse.moment(f"after an answer to {latest}")

    _replace(AbstractConnection, send_packed_command=counted_send, read_response=counted_read)


def _name(command: Any) -> str:
    words = (command if isinstance(command, bytes) else b"".join(command)).split(b"\r\n", 3)
    return words[2].decode()


def _count_database_calls(fuse: _Fuse) -> None:
    """Adds crash points before and after each connect, statement, commit and rollback."""

    @event.listens_for(Engine, "engine_connect")
    def _(_connection: Any) -> None:
        fuse.moment("after connecting to the database")

    @event.listens_for(Engine, "before_cursor_execute")
    def _(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        fuse.moment(f"before {statement[:40]}")

    @event.listens_for(Engine, "after_cursor_execute")
    def _(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        fuse.moment(f"after {statement[:40]}")

    def counted(name: str, done: Callable[..., None]) -> Callable[..., None]:
        def call(dialect: Any, connection: Any) -> None:
            fuse.moment(f"before {name}")
            done(dialect, connection)
            fuse.moment(f"after {name}")

        return call

    commit, rollback = DefaultDialect.do_commit, DefaultDialect.do_rollback
    _replace(DefaultDialect, do_commit=counted("COMMIT", commit), do_rollback=counted("ROLLBACK", rollback))


def _replace(owner: Any, **names: Any) -> None:
    """Replaces an attribute of a class or module in this process."""
    for name, value in names.items():
        assert hasattr(owner, name), f"{owner.__name__}.{name} has another name now"
        setattr(owner, name, value)


def _perform(order: dict[str, Any], journal: Path) -> None:
    fuse = _Fuse(journal, order["kill_at"])
    _count_store_calls(fuse)
    _count_database_calls(fuse)
    OPERATIONS[order["operation"]](Place(**order["place"]), fuse.acknowledged)
    fuse.complete()


def main() -> None:
    """Runs operations until there are none left, and reports the exit status of each."""
    configure_logs()
    logging.getLogger().setLevel(logging.CRITICAL)
    small_pages()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _perform(json.loads(line), Path(sys.argv[1]))
            except BaseException:  # noqa: BLE001  # the fork must never continue as its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def small_pages() -> None:
    """Splits work into several steps, and skips waiting for readers that don't exist here."""
    _replace(projector, PAGE=PAGE)
    _replace(build, _PAGE=PAGE)
    _replace(replaying, _OLD_GENERATION_S=0.0)
    _replace(jobs, PAGE=PAGE)


if __name__ == "__main__":
    main()
