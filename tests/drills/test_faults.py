"""Faults around Keyledger: each gives a clear signal, loses nothing, and is recovered from automatically."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.eventstore.codec import decode
from shared.eventstore.ledger import Ledger
from shared.store.connections import unchecked_client
from shared.store.embedded import EmbeddedServer
from tests.support.postgresql import PostgreSQL, postgresql_cluster
from tests.support.processes import need, until
from tests.support.service import Service

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]
_DISK = 160 * 1024 * 1024  # bytes; enough to pass the disk check until something fills it
_HOUR = 3600


@dataclass
class Platform:
    """A service whose keys are created and verified during a fault, with a record of the responses."""

    service: Service
    token: str = field(init=False)
    acknowledged: list[str] = field(default_factory=list)
    refused: list[requests.Response] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = self.service.key("keyledger:admin")
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def create(self, **fields: Any) -> requests.Response:
        """Creates a key, and retries until it's definitely created or rejected."""
        name = f"key-{len(self.acknowledged) + len(self.refused)}"
        answer = requests.post(
            f"{self.service.url}/v1/keys",
            json={"name": name} | fields,
            headers=self.headers | {"Idempotency-Key": name},
            timeout=10,
        )
        if answer.status_code == 201:
            self.acknowledged.append(answer.json()["id"])
        else:
            self.refused.append(answer)
        return answer

    def verdict(self, token: str) -> str:
        """Returns the code, or the HTTP status of the rejection."""
        answer = requests.post(
            f"{self.service.url}/v1/keys/verify", json={"api_key": token}, headers=self.headers, timeout=10
        )
        return answer.json()["code"] if answer.status_code == 200 else str(answer.status_code)

    def wrong(self) -> set[str]:
        """Returns the failing checks."""
        return {*requests.get(f"{self.service.url}/statusz", timeout=15).json()["wrong"]}

    def figures(self) -> str:
        return requests.get(f"{self.service.url}/metrics", timeout=15).text

    def sees(self, check: str, *words: str, ready: bool) -> None:
        """Waits for the signal in all three places, and for whether it makes the service unready."""
        until(lambda: check in self.wrong(), 30, f"the failure of {check}")
        until(
            lambda: f'keyledger_status{{check="{check}"}} 0.0' in self.figures(), 10, f"the figure of {check}"
        )
        until(lambda: self._told("check failed", check, *words), 15, f"the line of {check}")
        until(lambda: self.service.is_ready() == ready, 10, f"readiness: {ready}")

    def recovers(self, check: str, within: float = 30) -> None:
        """Waits until the signal is gone."""
        until(self.service.is_ready, within, "readiness")
        until(
            lambda: f'keyledger_status{{check="{check}"}} 1.0' in self.figures(), 10, f"the figure of {check}"
        )
        until(lambda: self._told("check passed again", check), 15, f"the end of {check}")

    def settles(self) -> None:
        """Asserts that exactly the acknowledged events exist, and that views and audit log agree."""
        assert self.create().status_code == 201
        made = [
            event.subject.removeprefix("key:")
            for page in Ledger(unchecked_client(self.service_store, 5)).pages(0, 1000)
            for event in map(decode, page)
            if event.type == "KeyCreated"
        ]
        assert sorted(made) == sorted([*self.acknowledged, self.token.split("_")[1][:12]])
        assert self.service.run("replay", "--check").returncode == 0
        until(lambda: "0 events and" in self.service.run("audit", "status").stdout, 30, "the audit log's end")
        assert self.service.run("audit", "check").returncode == 0

    @property
    def service_store(self) -> str:
        return EmbeddedServer.in_directory(self.service.data_dir).url

    def _told(self, what: str, check: str, *words: str) -> bool:
        lines = (line.partition(" | ")[2] for line in self.service.output.splitlines() if " | {" in line)
        rows = [json.loads(line) for line in lines]
        return any(
            (row["event"], row.get("check")) == (what, check)
            and all(word in " ".join(map(str, row.values())) for word in words)
            for row in rows
        )


@contextmanager
def started(data_dir: Path, **settings: str) -> Iterator[Platform]:
    service = Service(data_dir, KEYLEDGER_RATE_LIMIT="0", KEYLEDGER_LOG_FORMAT="json", **settings)
    service.start()
    try:
        yield Platform(service)
    finally:
        assert service.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a separate disk."""
    if os.geteuid() != 0:
        need(None, "a disk that may be filled (mounting one takes root)")
    place = tmp_path / "disk"
    place.mkdir()
    mount, umount = need(shutil.which("mount"), "mount"), need(shutil.which("umount"), "umount")
    subprocess.run([mount, "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([umount, "--lazy", place], check=True)


def test_a_full_disk_stops_the_store_until_there_is_room(small_disk: Path) -> None:
    with started(small_disk / "data") as platform:
        for _ in range(20):
            assert platform.create().status_code == 201
        ballast = small_disk / "ballast"
        _fill(ballast, leaving=64 * 1024)
        until(lambda: platform.create(description="x" * 500).status_code != 201, 60, "a refusal")
        assert platform.refused[-1].status_code == 503
        platform.sees("store", "does not answer", ready=False)
        platform.sees("disk", "are free at", ready=False)
        assert "store waits: The disk" in platform.service.output
        ends = platform.service.output.count("store ended")
        for _ in range(20):
            assert platform.create().status_code == 503
            assert platform.verdict(platform.token) == "503"
        assert platform.service.output.count("store ended") == ends  # it wasn't restarted repeatedly
        ballast.unlink()
        platform.recovers("disk")
        platform.refused.clear()
        assert platform.verdict(platform.token) == "VALID"
        platform.settles()


def _fill(ballast: Path, leaving: int) -> None:
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(ballast.parent).free - leaving))


def test_a_store_that_is_out_of_memory_rejects_writes_and_loses_nothing(tmp_path: Path) -> None:
    with started(tmp_path / "data") as platform:
        assert platform.create().status_code == 201
        with unchecked_client(platform.service_store, 5) as store:
            store.config_set("maxmemory", store.info("memory")["used_memory"] + 800_000)
            until(lambda: platform.create(description="x" * 500).status_code != 201, 60, "a refusal")
            refused = platform.refused[-1]
            assert refused.status_code == 503
            assert "out of memory" in refused.json()["detail"]
            assert "Nothing was done" in refused.json()["detail"]
            platform.sees("memory", "accepts no more events", ready=True)
            assert platform.verdict(platform.token) == "VALID"  # verification only reads
            store.config_set("maxmemory", 0)
        platform.recovers("memory")
        platform.settles()


def test_an_unavailable_audit_database_is_waited_for(tmp_path: Path) -> None:
    with postgresql_cluster() as directory:
        database = PostgreSQL(directory)
        url = f"postgresql://keyledger@/postgres?host={directory}"
        with started(tmp_path / "data", KEYLEDGER_AUDIT_DATABASE_URL=url) as platform:
            assert platform.create().status_code == 201
            database.stop()
            for _ in range(5):
                assert platform.create().status_code == 201
            platform.sees("database", "can't be used", ready=True)
            assert platform.verdict(platform.token) == "VALID"
            answer = requests.get(
                f"{platform.service.url}/v1/audit/entries", headers=platform.headers, timeout=15
            )
            assert answer.status_code == 503
            database.start()
            platform.recovers("database")
            platform.settles()


def test_setting_the_clock_back_an_hour_keeps_the_order_and_revives_no_key(tmp_path: Path) -> None:
    library = need(next(map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None), "faketime")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with started(tmp_path / "data", **faked) as platform:
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        token = platform.create(expires_at=soon).json()["api_key"]
        assert platform.verdict(token) == "VALID"
        until(lambda: platform.verdict(token) == "EXPIRED", 10, "the end of the key")
        assert platform.create().status_code == 201  # from here on, the ledger has this time
        until(lambda: "clock" not in platform.wrong(), 10, "clocks that agree")
        offset.write_text(f"-{_HOUR}")
        platform.sees("clock", "set back", ready=True)
        (last,) = re.findall(r"(?m)^keyledger_ledger_last_event_timestamp_seconds (\S+)$", platform.figures())
        assert abs(float(last) - time.time()) < 60
        for _ in range(5):
            assert platform.create().status_code == 201
        assert platform.verdict(token) == "EXPIRED"
        offset.write_text("+0")
        platform.recovers("clock")
        times = [record.at for record in Ledger(unchecked_client(platform.service_store, 5)).read(0, 100)]
        assert times == sorted(times)
        platform.settles()
