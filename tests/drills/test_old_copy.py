"""An older copy of the store's files replaces the current ones under running processes, which report it."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, TypeAlias

import pytest
import requests

from services.audit.log.store import AuditLog
from services.keys.read_model.generations import Views
from shared.eventstore.codec import decode
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.processes import until
from tests.support.runbooks import follow
from tests.support.service import Service

pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(180)]

_SAID_WITHIN_S = 2.0
_STAYS_S = 3.0
_AWAY_S = 4.0
_CALLS = 500


Sign: TypeAlias = Callable[[Service], object]


def _wrong(service: Service) -> set[str]:
    """Returns the failing checks of `/statusz`."""
    answer = requests.get(f"{service.url}/statusz", timeout=10)
    return {*answer.json()["wrong"]} if answer.status_code == 503 else set()


def _logs(process: str) -> Sign:
    return lambda service: re.search(rf"(?m)^{process} .*the ledger went backwards", service.output)


# How each consumer of the ledger reports that it went backwards.
_SIGNS: Mapping[str, Sign] = {
    "/statusz": lambda service: "audit log" in _wrong(service),
    "the relay": _logs("relay"),
    "the projector": _logs("projector"),
}


class Caller:
    """A caller with a bearer token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/v1/keys"
        self._headers = {"Authorization": f"Bearer {token}"}

    def status(self) -> int:
        """Sends a request."""
        return requests.get(self._url, headers=self._headers, timeout=10).status_code

    def listed(self) -> list[tuple[str, bool]] | None:
        """Returns whether each key is enabled, newest first, or None if the list wasn't available."""
        answer = requests.get(self._url, params={"limit": 200}, headers=self._headers, timeout=10)
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            return None
        return [(row["id"], row["enabled"]) for row in answer.json()["keys"]]

    def create(self, name: str) -> dict[str, Any]:
        """Creates a key that can read keys."""
        body = {"name": name, "scopes": ["keyledger:keys.read"]}
        answer = requests.post(self._url, json=body, headers=self._headers, timeout=10)
        assert answer.status_code == 201, answer.text
        key: dict[str, Any] = answer.json()
        return key

    def disable(self, key_id: str) -> None:
        """Disables a key."""
        answer = requests.patch(
            f"{self._url}/{key_id}", json={"enabled": False}, headers=self._headers, timeout=10
        )
        assert answer.status_code == 200, answer.text

    def status_of(self, key_id: str) -> int:
        """Requests one key."""
        return requests.get(f"{self._url}/{key_id}", headers=self._headers, timeout=10).status_code


@dataclass
class Story:
    """A Keyledger, an older copy of its store's files, and the changes made after the copy."""

    service: Service
    admin: Caller
    lost: Caller  # with a key that only the newer files contain
    lost_id: str
    switched: Caller  # with a key that is only disabled in the newer files
    older: Path
    newer: Path
    older_list: list[tuple[str, bool]] | None
    newer_list: list[tuple[str, bool]] | None
    audited: int  # the audit log's last position


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    service = Service(tmp_path / "data")
    service.start()
    try:
        yield _told(service, tmp_path)
    finally:
        if service._process.poll() is None:
            service.stop()


def _told(service: Service, directory: Path) -> Story:
    admin = Caller(service.url, service.key("keyledger:admin"))
    switched = admin.create("switched off later")
    for number in range(5):
        admin.create(f"kept {number}")
    _settle(service)
    older_list = admin.listed()
    shutil.copytree(_files(service), directory / "older")

    lost = admin.create("made later")
    admin.disable(switched["id"])
    _settle(service)
    story = Story(
        service=service,
        admin=admin,
        lost=Caller(service.url, lost["api_key"]),
        lost_id=lost["id"],
        switched=Caller(service.url, switched["api_key"]),
        older=directory / "older",
        newer=directory / "newer",
        older_list=older_list,
        newer_list=admin.listed(),
        audited=_audited(service.data_dir),
    )
    assert (story.lost.status(), story.switched.status()) == (200, 401)
    return story


@dataclass
class CheckRunner:
    """Repeated API calls and page requests by all callers, and the responses."""

    story: Story
    lost: set[int] = field(default_factory=set)
    switched: set[int] = field(default_factory=set)
    pages: list[Any] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    calls: int = 0

    def __enter__(self) -> Self:
        self._over = Event()
        looks: list[Callable[[], object]] = [
            lambda: self.lost.add(self.story.lost.status()),
            lambda: self.switched.add(self.story.switched.status()),
            lambda: self.pages.append(self.story.admin.listed()),
        ]
        self._threads = [Thread(target=self._look, args=(look,)) for look in looks]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _look(self, look: Callable[[], object]) -> None:
        while not self._over.is_set():
            try:
                look()
                self.calls += 1
            except (requests.RequestException, AssertionError) as error:
                self.failures.append(error)
                return


def test_an_older_copy_is_reported_within_two_seconds_without_wrong_responses(story: Story) -> None:
    with ExitStack() as stack:
        watch = CheckRunner(story)

        def watched() -> None:
            stack.enter_context(watch)
            until(lambda: 503 in watch.lost & watch.switched, what="an answer without the store")

        back = _put_back(story, watched)
        said = _said(story.service, back, _SIGNS)
        until(lambda: watch.calls > _CALLS, 60, f"{_CALLS} calls")
    print(f"\nsaid {', '.join(f'by {who} after {s:.2f} s' for who, s in said.items())}; {watch.calls} calls")
    assert max(said.values()) < _SAID_WITHIN_S
    assert watch.failures == []
    assert watch.lost == {401, 503}
    assert watch.switched == {200, 503}
    assert [page for page in watch.pages if page not in (None, story.older_list)] == []
    assert story.older_list in watch.pages
    assert story.admin.status_of(story.lost_id) == 404
    assert _positions(story.service) == list(range(1, story.audited - 1))
    # The projector may still be rebuilding.
    until(lambda: story.service.run("replay", "--check").returncode == 0, 30, "views that are the ledger's")


def test_new_events_in_place_of_lost_ones_do_not_hide_the_loss(story: Story) -> None:
    back = _put_back(story)
    _said(story.service, back, {"/statusz": _SIGNS["/statusz"]})
    for number in range(4):
        story.admin.create(f"new {number}")
    assert len(_positions(story.service)) > story.audited
    deadline = time.monotonic() + _STAYS_S
    while time.monotonic() < deadline:
        assert _audited(story.service.data_dir) == story.audited
        assert "audit log" in _wrong(story.service)


def test_the_runbook_restores_the_newer_files(story: Story) -> None:
    service = story.service
    _put_back(story)
    assert follow(service, "The ledger went backwards") == 1
    service.stop()
    assert follow(service, "The newer files are still there", NEWER=str(story.newer)) == 0
    service.start()
    assert follow(service, "Afterwards") == 0
    assert story.admin.listed() == story.newer_list
    assert (story.lost.status(), story.switched.status()) == (200, 401)
    # Then the log is found intact.
    until(lambda: _audited(service.data_dir) == story.audited + 1, what="the audit log")


def test_the_runbook_keeps_the_old_audit_log_if_the_newer_files_are_lost(story: Story) -> None:
    service = story.service
    _put_back(story)
    shutil.rmtree(story.newer)
    service.stop()
    assert follow(service, "The newer files are lost") == 0
    service.start()
    _settle(service)
    assert follow(service, "Afterwards") == 0
    assert story.admin.listed() == story.older_list
    kept = [directory for directory in service.data_dir.glob("audit-*") if directory.is_dir()]
    assert [_audited(directory) for directory in kept] == [story.audited]


def _put_back(story: Story, when_gone: Callable[[], None] = lambda: None) -> float:
    """Replaces the files under the running processes, and returns when the store responded again."""
    service = story.service
    server = EmbeddedServer.in_directory(service.data_dir)
    supervisor, store = service._process.pid, service.pid("valkey-server")
    os.kill(supervisor, signal.SIGSTOP)  # so that it doesn't restart the store in the meantime
    try:
        os.kill(store, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: _state(store) == "Z", what="the end of the store")
        shutil.move(_files(service), story.newer)
        shutil.copytree(story.older, _files(service))
        when_gone()
        # Long enough for the processes that wait for the store to back off.
        until(lambda: time.monotonic() > killed + _AWAY_S)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    until(server.is_ready, what="the store's return")
    return time.monotonic()


def _said(service: Service, back: float, signs: Mapping[str, Sign]) -> dict[str, float]:
    """Waits until each consumer has reported it, and returns the delays since the store's return."""
    said: dict[str, float] = {}

    def all_have() -> bool:
        for who, has_said in signs.items():
            if who not in said and has_said(service):
                said[who] = time.monotonic() - back
        return said.keys() == signs.keys()

    with suppress(AssertionError):
        until(all_have, 10)
    assert said.keys() == signs.keys(), f"silent: {signs.keys() - said.keys()}\n{service.output}"
    return said


def _files(service: Service) -> Path:
    return service.data_dir / "store" / "appendonlydir"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _audited(directory: Path) -> int:
    """Returns the last position of a directory's audit log."""
    log = AuditLog(f"sqlite:///{directory / 'audit.db'}")
    try:
        return log.last().position
    finally:
        log.close()


def _positions(service: Service) -> list[int]:
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        return [decode(record).position for record in Ledger(store).read(0, 1000)]


def _settle(service: Service) -> None:
    """Waits until the views and the audit log have all events."""
    head = len(_positions(service))
    until(lambda: _audited(service.data_dir) == head, what="the audit log")
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        until(lambda: Views(store).live().checkpoint().position == head, what="the views")
