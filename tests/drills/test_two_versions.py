"""Two versions of the code on one ledger: a rolling upgrade, a rollback, and the results of each.

The older version is a copy of the code without one event type, and with an older version number of the views.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.store.embedded import EmbeddedServer
from tests.support.processes import free_port, served, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SECRET = "a secret of 32 characters at least"


class Version:
    """The processes of one version, and requests to its web process."""

    def __init__(self, tree: Path, data_dir: Path, store_url: str) -> None:
        self._tree = tree
        self._port = free_port()
        self._key = ""
        here = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        self._environment = here | {
            "PYTHONPATH": str(tree),
            "KEYLEDGER_REDIS_URL": store_url,
            "KEYLEDGER_SECRET_KEY": SECRET,
            "KEYLEDGER_DATA_DIR": str(data_dir),
            "KEYLEDGER_PORT": str(self._port),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs the web process and the projector."""
        with ExitStack() as stack:
            for command in (["web"], ["projector"]):
                process = subprocess.Popen(self._command(command), env=self._environment, cwd=self._tree)
                stack.callback(process.wait, 20)
                stack.callback(process.terminate)
            until(self._answers, 30, "the web's answer")
            yield

    def run(self, *arguments: str) -> str:
        """Returns the output of a successful command."""
        ended = subprocess.run(
            self._command([*arguments]),
            env=self._environment,
            cwd=self._tree,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout.strip()

    def use(self, key: str) -> None:
        """Uses this key for all further requests."""
        self._key = key

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """Sends a request."""
        url, bearer = f"http://127.0.0.1:{self._port}{path}", {"Authorization": f"Bearer {self._key}"}
        return requests.request(method, url, json=body, headers=bearer | headers, timeout=10)

    def listed(self, after: str) -> dict[str, str]:
        """Returns the status of each key by name, once the views have reached a position."""
        answer = self.ask("GET", f"/v1/keys?after={after}")
        assert "X-Ledger-Behind" not in answer.headers
        return {key["name"]: key["status"] for key in answer.json()["keys"]}

    def verdict(self, token: str) -> str | int:
        """Returns the code, or the HTTP status if the key can't be verified."""
        answer = self.ask("POST", "/v1/keys/verify", {"api_key": token})
        code: str | int = answer.json()["code"] if answer.status_code == 200 else answer.status_code
        return code

    def soon_says(self, verdict: str | int, token: str) -> None:
        """Waits until every verification must reflect a change."""
        until(lambda: self.verdict(token) == verdict, 0.5, f"the verdict {verdict}")

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/healthz").status_code == 200
        except requests.ConnectionError:
            return False

    def _command(self, words: list[str]) -> list[str]:
        return [sys.executable, "-m", "services.cli", *words]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture
def versions(directory: Path) -> Iterator[tuple[Version, Version]]:
    """Runs the older and the current version on one store, with an admin key."""
    server = EmbeddedServer.in_directory(directory / "store")
    with served(server.command, server.url):
        old = Version(_older_tree(directory / "older"), directory / "data", server.url)
        new = Version(ROOT, directory / "data", server.url)
        key = old.run("key", "create", "caller", "--scope", "keyledger:admin")
        old.use(key)
        new.use(key)
        yield old, new


def _older_tree(tree: Path) -> Path:
    for package in ("services", "shared"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    _edit(tree / "services/keys/read_model/projection.py", r"(?m)^REVISION = \d+", "REVISION = 0")
    _edit(tree / "shared/eventstore/events.py", r'TYPE = "KeyRotated"', 'TYPE = "KeyTurned"')
    return tree


def _edit(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text())
    assert count == 1, file
    file.write_text(text)


def _created(version: Version, name: str) -> tuple[str, str, str]:
    """Creates a key, and returns its ID, the key itself, and its ledger position."""
    answer = version.ask("POST", "/v1/keys", {"name": name})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made["id"], made["api_key"], answer.headers["X-Ledger-Position"]


def test_a_rolling_upgrade_and_a_rollback_lose_nothing(
    versions: tuple[Version, Version],
) -> None:
    old, new = versions
    with old.running():
        before, token, _ = _created(old, "before")
        with new.running():
            _, _, position = _created(new, "by the new")
            for version in versions:
                assert {*version.listed(position)} == {"caller", "before", "by the new"}
            switched = old.ask("PATCH", f"/v1/keys/{before}", {"enabled": False})
            for version in versions:
                assert version.listed(switched.headers["X-Ledger-Position"])["before"] == "inactive"
                version.soon_says("DISABLED", token)
        # After the rollback, the older version continues with the data of the newer one.
        _, _, position = _created(old, "after")
        switched = old.ask("PATCH", f"/v1/keys/{before}", {"enabled": True})
        assert old.listed(switched.headers["X-Ledger-Position"]) == dict.fromkeys(
            ("caller", "before", "by the new", "after"), "active"
        )
        with new.running():
            assert new.listed(position) == old.listed(position)
            assert new.run("replay", "--check").endswith("equal")
            assert old.run("replay", "--check").endswith("equal")


def test_the_older_version_gives_no_verdict_on_a_key_with_an_unknown_event(
    versions: tuple[Version, Version],
) -> None:
    old, new = versions
    with old.running(), new.running():
        rotated, token, _ = _created(old, "rotated")
        _, other, _ = _created(new, "other")
        assert [version.verdict(token) for version in versions] == ["VALID"] * 2
        answer = new.ask("POST", f"/v1/keys/{rotated}/rotate", {"grace_seconds": 0})
        successor, position = answer.json()["api_key"], answer.headers["X-Ledger-Position"]
        for given, known in ((token, "EXPIRED"), (successor, "VALID")):
            old.soon_says(503, given)
            assert [old.verdict(given) for _ in range(20)] == [503] * 20
            new.soon_says(known, given)
        # Everything else continues in both.
        for version in versions:
            assert version.verdict(other) == "VALID"
            assert {*version.listed(position)} == {"caller", "rotated", "other"}
        assert f"parked {rotated}: " in old.run("projector", "status")
        assert "parked" not in new.run("projector", "status")
        # A key with an unreadable history can still be revoked.
        revoked = old.ask("DELETE", f"/v1/keys/{rotated}")
        assert revoked.status_code == 200, revoked.text
        new.soon_says("REVOKED", successor)
        assert new.listed(revoked.headers["X-Ledger-Position"])["rotated"] == "revoked"
