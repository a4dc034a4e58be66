"""A Keyledger under attack: keys are verified and revoked, nothing fills up, and no thread spins."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Stop
from threading import Thread
from typing import Any

import pytest
import requests

from services.cli.terminal import operator, request
from services.keys.components import KeyComponents
from tests.support.attacks import ATTACKS
from tests.support.principals import new_key
from tests.support.processes import children
from tests.support.service import Service
from tests.support.web_client import Visitor

pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(600)]

_ROOT = Path(__file__).parents[2]
_UNDISTURBED_S = 10.0
_MORE_MS = 50.0
_GROWTH = 1024 * 1024  # bytes
_AFTERWARDS_S = 3.0  # how long the aftermath of an attack is observed
_IDLE_S = 2.0
_SPINNING = 0.2  # of a CPU
_REVOKE_EVERY_S = 1.0  # each adds an event, and the store must hardly grow


class Probe:
    """The latencies and errors of a caller of verify."""

    def __init__(self, printed: str) -> None:
        target = json.loads(printed)
        self.took: list[float] = sorted(target["took"])
        self.wrong: list[str] = target["wrong"]

    @property
    def p99(self) -> float:
        """The 99th percentile of the latency in ms."""
        return self.took[int(len(self.took) * 0.99)]


@contextmanager
def probing(target: dict[str, Any]) -> Iterator[list[Probe]]:
    """Verifies in a separate process. The outcome is available afterwards."""
    outcome: list[Probe] = []
    command = [sys.executable, "-m", "tests.support.attacks", "verify", json.dumps(target)]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield outcome
        printed, _ = process.communicate("")
    outcome.append(Probe(printed))


class Revoker(Thread):
    """Revokes a key at regular intervals."""

    def __init__(self, url: str, token: str, keys: list[str]) -> None:
        super().__init__()
        self.longest = 0.0
        self.statuses: list[int] = []
        self._stop_it = Stop()
        self._keys = keys
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        while not self._stop_it.wait(_REVOKE_EVERY_S):
            began = time.monotonic()
            url = f"{self._url}/v1/keys/{self._keys.pop()}"
            self.statuses.append(requests.delete(url, headers=self._headers, timeout=30).status_code)
            self.longest = max(self.longest, time.monotonic() - began)

    def end(self) -> None:
        """Waits for the last revocation."""
        self._stop_it.set()
        self.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("attacked"))
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def target(service: Service) -> dict[str, Any]:
    """The keys and sessions that the attackers and the caller use."""
    visitor = Visitor(service.url)
    visitor.sign_in(*service.sign_in())
    return {
        "port": service.port,
        "key": service.key("orders:read"),
        "verifier": service.key("keyledger:keys.verify"),
        "reader": service.key("keyledger:audit.read", "keyledger:keys.verify"),
        "csrf_token": visitor.token("/account"),
        "cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.cookies),
    }


def new_keys(service: Service) -> list[str]:
    """The IDs of enough keys to revoke during all attacks."""
    with service.components() as components:
        owner, new = operator(service.workspace), new_key(name="revoked under attack")
        return [
            components.of(KeyComponents).keys.commands.create(owner, new, request()).key.id
            for _ in range(300)
        ]


def memory(service: Service) -> int:
    with service.components() as components:
        used = components.shared.store.info("memory")
    return int(used["used_memory"] - used["mem_not_counted_for_evict"])


def busiest_thread(service: Service) -> float:
    """Returns the CPU usage of a web worker's busiest thread while there are no requests."""
    workers = children(service.pid("web"))
    before = _cpu_by_thread(workers)
    time.sleep(_IDLE_S)
    after = _cpu_by_thread(workers)
    ticks = max(spent - before.get(thread, 0) for thread, spent in after.items())
    return ticks / os.sysconf("SC_CLK_TCK") / _IDLE_S


def _cpu_by_thread(pids: list[int]) -> dict[str, int]:
    spent = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            spent[thread.name] = int(fields[11]) + int(fields[12])
    return spent


def test_no_attack_slows_verification_blocks_revocation_or_fills_the_store(
    service: Service, target: dict[str, Any]
) -> None:
    admin = service.key("keyledger:admin")
    keys = new_keys(service)
    with probing(target) as undisturbed:
        time.sleep(_UNDISTURBED_S)
    limit = undisturbed[0].p99 + _MORE_MS
    print(f"\nundisturbed: verify p99 {undisturbed[0].p99:.1f} ms of {len(undisturbed[0].took)}")
    assert not undisturbed[0].wrong
    failures = []
    at_first = memory(service)
    for name in ATTACKS:
        revoker = Revoker(service.url, admin, keys)
        before = memory(service)
        with probing(target) as met:
            revoker.start()
            attack = [sys.executable, "-m", "tests.support.attacks", name, json.dumps(target)]
            answers = json.loads(subprocess.run(attack, cwd=_ROOT, capture_output=True, check=True).stdout)
            time.sleep(_AFTERWARDS_S)
            revoker.end()
        grown = memory(service) - before
        spinning = busiest_thread(service)
        print(
            f"{name}: verify p99 {met[0].p99:.1f} ms, worst {met[0].took[-1]:.1f} ms of {len(met[0].took)}; "
            f"{len(revoker.statuses)} revoked, longest {revoker.longest * 1000:.0f} ms; store grew by "
            f"{grown / 1024:,.0f} KiB; busiest thread {spinning:.0%}; answers {answers}"
        )
        if met[0].p99 >= limit:
            failures.append(f"{name}: verify's p99 is {met[0].p99:.1f} ms, {limit:.1f} ms are allowed")
        failures += [f"{name}: {wrong}" for wrong in met[0].wrong]
        refused = [status for status in revoker.statuses if status != 200]
        failures += [f"{name}: a revocation was answered {status}" for status in refused]
        if not revoker.statuses:
            failures.append(f"{name}: nothing was revoked meanwhile")
        if spinning > _SPINNING:
            failures.append(f"{name}: a thread spins")
    grown = memory(service) - at_first
    if grown >= _GROWTH:
        failures.append(f"the store grew by {grown:,} bytes")
    assert not failures, "\n".join(failures)
