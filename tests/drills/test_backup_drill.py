"""Backups under load, killed restores, and how long both take."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
from redis import RedisError

from bench.events import event_of
from services.accounts.components import AccountComponents
from services.audit.components import AuditComponents
from services.audit.ingest.job import catch_up
from services.backup.backup import Taken
from services.backup.restore import restore_file
from services.keys.components import KeyComponents
from services.keys.read_model.rebuild.replay import check as check_views
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Record
from shared.service.components import Container
from shared.store.embedded import EmbeddedServer
from tests.support.append_load import start_writer, stop_writer
from tests.support.installations import (
    OPERATOR,
    Seen,
    backed_up,
    close,
    components_in,
    findings,
    live,
    quietly,
    seen,
    sign_checkpoint,
)
from tests.support.principals import REQUEST
from tests.support.processes import served, until
from tests.support.service import KEYLEDGER, Service

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

_WRITERS = 2
_BACKUPS = 3
_BETWEEN = 2_000  # events
_EVENTS = 100_000
_PAGE = 500
_PEAK_MIB = 200
_EMAIL = "ann@example.org"


@contextmanager
def _keyledger(directory: Path) -> Iterator[Callable[[], Container]]:
    """Runs a store in the directory, and yields a factory of components on it."""
    server, made = EmbeddedServer.in_directory(directory), list[Container]()

    def components() -> Container:
        made.append(components_in(directory, server.url))
        return made[-1]

    with served(server.command, server.url):
        yield components
        for each in made:
            close(each)


@contextmanager
def _repeated(step: Callable[[], object]) -> Iterator[None]:
    """Repeats an action in the background. If it fails, the test fails at the end."""
    over, failures = Event(), list[BaseException]()

    def work() -> None:
        try:
            while not over.is_set():
                step()
        except BaseException as error:  # noqa: BLE001  # raised below
            failures.append(error)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
    assert failures == []


class _Person:
    """An account whose password is changed all the time."""

    def __init__(self, components: Container) -> None:
        self._accounts = components.of(AccountComponents).accounts
        self.last = 0
        self._accounts.add(OPERATOR, _EMAIL, "owner", self.password(0), REQUEST)

    def change_password(self) -> None:
        self._accounts.reset_password(OPERATOR, _EMAIL, self.password(self.last + 1), REQUEST)
        self.last += 1

    def newer_password(self, components: Container) -> int:
        """Returns how many changes a restored password is ahead of the restored ledger."""
        subject = f"account:{_EMAIL}"
        by_ledger, kept = (
            components.shared.ledger.version(subject) - 1,
            components.shared.ledger.credential(subject),
        )
        tries = range(by_ledger, self.last + 1)
        return (
            next(
                n for n in tries if components.of(AccountComponents).passwords.verify(kept, self.password(n))
            )
            - by_ledger
        )

    @staticmethod
    def password(number: int) -> str:
        return f"the password number {number}"


def test_each_backup_taken_under_load_restores_the_state_it_captured(tmp_path: Path) -> None:
    taken: list[Taken] = []
    with _keyledger(tmp_path / "old") as components:
        old, auditor, ann = components(), components(), _Person(components())
        writers = [start_writer(old.shared.store_url, number) for number in range(_WRITERS)]

        def work() -> None:
            audit = auditor.of(AuditComponents)
            catch_up(audit.log, auditor.shared.ledger, pages=1)
            audit.notary.sign_checkpoint()

        with _repeated(ann.change_password), _repeated(work):
            for number in range(_BACKUPS):
                goal = old.shared.ledger.head().position + _BETWEEN
                while old.shared.ledger.head().position < goal:
                    time.sleep(0.02)  # the test's timeout is the deadline
                taken.append(backed_up(old, tmp_path / f"backup-{number}"))
        appended = sum(len(stop_writer(writer)) for writer in writers)
        sign_checkpoint(old)
        was = seen(old)
    print(f"\n{appended:,} keys by writers, {ann.last:,} passwords, {len(was.checkpoints):,} checkpoints")
    for number, each in enumerate(taken):
        directory = tmp_path / f"new-{number}"
        with _keyledger(directory) as components:
            shutil.copy(tmp_path / "old" / "audit_key.pem", directory)
            new = components()
            restore_file(new, tmp_path / f"backup-{number}", quietly)
            now = seen(new)
            ahead = ann.newer_password(new)
            print(
                f"{each.header.events:,} events, {each.header.checkpoints} checkpoints, {ahead} changes ahead"
            )
            assert now.log == was.log[: each.header.events]
            assert now.entries == was.entries[: each.header.events]
            assert now.checkpoints == was.checkpoints[: each.header.checkpoints]
            assert now.people == [_EMAIL]
            assert (len(now.passwords), each.left_out) == (1, 0)
            assert findings(new) == []
            assert check_views(new.shared.ledger, new.of(KeyComponents).views).equal


def _filled(components: Container) -> None:
    """Adds 100,000 events, mostly of keys that are created and disabled, and two checkpoints."""
    live(components)
    head = components.shared.ledger.head().position
    bodies = [encode(event_of(f"{n:012d}", version)) for n in range(_EVENTS // 2) for version in (1, 2)]
    for first in range(head, _EVENTS, _PAGE):
        last = min(first + _PAGE, _EVENTS)
        at = components.shared.ledger.read(head - 1, 1)[0].at
        page = [Record(position, at, bodies[position - head - 1]) for position in range(first + 1, last + 1)]
        components.shared.ledger.fill(first, page)
    sign_checkpoint(components)
    components.of(KeyComponents).projector.catch_up()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A Keyledger with many events, without running processes."""
    service = Service(tmp_path_factory.mktemp("full"))
    with _keyledger(service.data_dir) as components:
        _filled(components())
    return service


@pytest.fixture
def empty(full: Service, tmp_path: Path) -> Service:
    """An empty one with the same signing key."""
    service = Service(tmp_path / "empty")
    service.data_dir.mkdir(mode=0o700)
    shutil.copy(full.data_dir / "audit_key.pem", service.data_dir)
    return service


def _seen(service: Service) -> Seen:
    server = EmbeddedServer.in_directory(service.data_dir)
    components = components_in(service.data_dir, server.url)
    with server.joined():
        found = seen(components)
        close(components)
    return found


def _restore(service: Service, backup: Path) -> "subprocess.Popen[bytes]":
    command = [KEYLEDGER, "restore", str(backup)]
    return subprocess.Popen(command, env=service.environment, stdout=subprocess.DEVNULL)


def test_a_restore_killed_at_each_of_its_stages_can_be_completed(
    full: Service, empty: Service, tmp_path: Path
) -> None:
    assert full.run("backup", str(tmp_path / "backup")).returncode == 0
    components = components_in(empty.data_dir, EmbeddedServer.in_directory(empty.data_dir).url)
    stages: list[tuple[Callable[[], int], int]] = [
        (lambda: len(components.of(AuditComponents).log.checkpoints()), 1),
        (lambda: components.shared.ledger.head().position, 1),
        (lambda: components.shared.ledger.head().position, _EVENTS // 2),
        (lambda: components.of(AuditComponents).log.last().position, 1),
        (lambda: components.of(AuditComponents).log.last().position, _EVENTS // 2),
        (lambda: components.of(KeyComponents).views.live().checkpoint().position, 1),
        (lambda: components.of(KeyComponents).views.live().checkpoint().position, _EVENTS // 2),
    ]
    for reached, wanted in stages:
        restore = _restore(empty, tmp_path / "backup")
        until(partial(_is_there, reached, wanted), 120, "the stage to kill at")
        assert restore.poll() is None
        restore.kill()
        restore.wait(10)
        print(f"killed at {reached():,} of what was to reach {wanted:,}")
    close(components)
    done = empty.run("restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    assert _seen(empty) == _seen(full)


def test_a_restore_killed_at_random_times_can_be_completed(
    full: Service, empty: Service, tmp_path: Path
) -> None:
    assert full.run("backup", str(tmp_path / "backup")).returncode == 0
    chance, kills, longest = random.Random(7), 0, 2.0
    while True:
        restore = _restore(empty, tmp_path / "backup")
        try:
            assert restore.wait(chance.uniform(0, longest)) == 0
            break
        except subprocess.TimeoutExpired:
            restore.kill()
            restore.wait(10)
            kills, longest = kills + 1, longest * 1.3
    print(f"\nkilled {kills} times")
    assert kills > 3
    assert _seen(empty) == _seen(full)


@pytest.mark.alone
def test_a_backup_and_a_restore_stay_within_their_memory_limit(
    full: Service, empty: Service, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    for service, words in ((full, "backup"), (empty, "restore")):
        began = time.monotonic()
        peak = _peak(service, words, str(backup))
        print(f"\n{words} of {_EVENTS:,} events: {time.monotonic() - began:.1f} s, {peak:,} MiB at the most")
        assert peak < _PEAK_MIB
    print(f"the file has {backup.stat().st_size / 2**20:.1f} MiB")


def _is_there(reached: Callable[[], int], wanted: int) -> bool:
    try:
        return reached() >= wanted
    except RedisError:  # not started yet
        return False


def _peak(service: Service, *words: str) -> int:
    """Returns a command's peak memory in MiB."""
    measuring = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", measuring, KEYLEDGER, *words]
    done = subprocess.run(command, env=service.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) // 1024
