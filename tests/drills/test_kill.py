"""Every process is killed while keys are created: nothing acknowledged may be lost or duplicated."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import pytest
import requests

from shared.eventstore.codec import decode
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.append_load import start_writer, stop_writer
from tests.support.processes import children, until
from tests.support.service import Service

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

_WRITERS = 8
_BETWEEN_KILLS = 150  # acknowledged creates
_STORE_KILLS = 20
_BETWEEN_STORE_KILLS = 1_000  # events, and up to twice as many


class Load:
    """Writers that create keys as fast as possible, and record what was acknowledged."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/v1/keys"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._over = Event()
        self.acknowledged: list[str] = []
        self.refused: Counter[str] = Counter()
        self._threads = [Thread(target=self._write, args=(number,)) for number in range(_WRITERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def wait(self) -> None:
        """Waits until some more keys are acknowledged."""
        goal = len(self.acknowledged) + _BETWEEN_KILLS
        until(lambda: len(self.acknowledged) >= goal, 60, f"{_BETWEEN_KILLS} creates")

    def _write(self, number: int) -> None:
        session, count = requests.Session(), 0
        while not self._over.is_set():
            count += 1
            try:
                answer = session.post(
                    self._url, json={"name": f"{number}-{count}"}, headers=self._headers, timeout=10
                )
            except requests.RequestException as error:
                self.refused[type(error).__name__] += 1
                time.sleep(0.01)
                continue
            if answer.status_code == 201:
                self.acknowledged.append(answer.json()["id"])
            else:
                self.refused[str(answer.status_code)] += 1


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "data", KEYLEDGER_RATE_LIMIT="0")
    running.start()
    yield running
    running.stop()


def test_killing_any_process_neither_loses_nor_duplicates_acknowledged_keys(service: Service) -> None:
    token = service.key("keyledger:admin")
    with Load(service.url, token) as load:
        for victim in ("store", "projector", "relay", "worker", "web", "a web worker"):
            load.wait()
            pid = _pid(service, victim)
            os.kill(pid, signal.SIGKILL)
            print(f"killed {victim} ({pid}) after {len(load.acknowledged)} acknowledged creates")
            until(partial(_is_gone, pid), 10, f"the end of {victim}")
            until(service.is_ready, 30, "readiness")
        load.wait()
    print(f"{len(load.acknowledged)} acknowledged, others: {dict(load.refused)}")
    _settle(service)
    _account_for(service, token, load.acknowledged)

    service.kill()
    until(lambda: not service.processes(), 15, "the end of what a killed `up` leaves")
    service.start()
    _account_for(service, token, load.acknowledged)


def test_twenty_kills_of_the_store_neither_lose_nor_duplicate_events(short_tmp: Path) -> None:
    server = EmbeddedServer.in_directory(short_tmp / "killed")
    chance = random.Random(20)
    store = _started(server)
    writers = [start_writer(server.url, number) for number in range(_WRITERS)]
    began = time.monotonic()
    try:
        for _ in range(_STORE_KILLS):
            _wait_for_events(server, _BETWEEN_STORE_KILLS + chance.randrange(_BETWEEN_STORE_KILLS))
            store.kill()
            store.wait(10)
            store = _started(server)
        _wait_for_events(server, _BETWEEN_STORE_KILLS)
        seconds = time.monotonic() - began
        outcomes = [outcome for writer in writers for outcome in stop_writer(writer)]
        with connect(server.url) as client:
            records = _records(Ledger(client))
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
        store.kill()
        store.wait(10)

    assert [record.position for record in records] == list(range(1, len(records) + 1))
    held = {decode(record).subject: record.position for record in records}
    acknowledged = {outcome.subject: outcome.position for outcome in outcomes if outcome.position}
    lost = {subject for subject, position in acknowledged.items() if held.get(subject) != position}
    uncertain = [outcome for outcome in outcomes if outcome.unknown]
    print(
        f"\n{_STORE_KILLS} kills in {seconds:.1f} s: {len(acknowledged):,} acknowledged, {len(lost)} lost, "
        f"{len(records) - len(held)} doubled; {len(uncertain)} outcomes were unknown, "
        f"{sum(outcome.position is not None for outcome in uncertain)} of them asked again, "
        f"{sum(outcome.repeated for outcome in outcomes)} of these found done"
    )
    assert lost == set()
    assert len(held) == len(records)
    # Nothing exists that wasn't attempted. Anything beyond the acknowledged keys had an unknown outcome.
    assert held.keys() - acknowledged.keys() <= {outcome.subject for outcome in uncertain}
    # Each kill interrupted a request in progress.
    assert len(uncertain) >= _STORE_KILLS


def _started(server: EmbeddedServer) -> "subprocess.Popen[bytes]":
    store = subprocess.Popen(server.command, stdout=subprocess.DEVNULL)
    until(server.is_ready, 30, "the store's answer")
    return store


def _wait_for_events(server: EmbeddedServer, more: int) -> None:
    with connect(server.url) as client:
        ledger = Ledger(client)
        goal = ledger.head().position + more
        until(lambda: ledger.head().position >= goal, 60, f"{more} events")


def _records(ledger: Ledger) -> list[Record]:
    records: list[Record] = []
    while page := ledger.read(len(records), 10_000):
        records += page
    return records


def _pid(service: Service, victim: str) -> int:
    words = {"store": "valkey-server", "a web worker": "web"}.get(victim, victim)
    pid = service.pid(words)
    return children(pid)[-1] if victim == "a web worker" else pid


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _settle(service: Service) -> None:
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        ledger = Ledger(store)
        until(lambda: "0 events not yet" in service.run("audit", "check").stdout, 30, "the audit log")
        head = ledger.head().position
        print(f"settled at position {head}")


def _account_for(service: Service, token: str, acknowledged: list[str]) -> None:
    """Asserts that each acknowledged key is once in ledger, list and audit log, without gaps."""
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        records = Ledger(store).read(0, 10**6)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    subjects = Counter(decode(record).subject for record in records)
    assert set(Counter(acknowledged).values()) == {1}
    assert all(subjects[f"key:{key_id}"] == 1 for key_id in acknowledged)

    listed = Counter(row["id"] for row in _pages(service, token, "/v1/keys", "keys"))
    assert all(listed[key_id] == 1 for key_id in acknowledged)
    assert set(listed.values()) == {1}
    audited = Counter(row["key_id"] for row in _pages(service, token, "/v1/audit/entries", "entries"))
    assert all(audited[key_id] == 1 for key_id in acknowledged)
    for command in (("audit", "check"), ("replay", "--check")):
        ended = service.run(*command)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def _pages(service: Service, token: str, path: str, name: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        answer = requests.get(
            f"{service.url}{path}?limit=200{cursor}", headers={"Authorization": f"Bearer {token}"}, timeout=10
        ).json()
        yield from answer[name]
        if answer["next_cursor"] is None:
            return
        cursor = f"&cursor={answer['next_cursor']}"
