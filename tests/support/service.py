"""A complete Keyledger, as its users run it."""

import copy
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import requests

from services.accounts.components import AccountComponents
from services.cli.terminal import operator, request
from services.keys.components import KeyComponents
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from shared.store.embedded import EmbeddedServer
from tests.support.postgresql import _audit_database
from tests.support.principals import new_key
from tests.support.processes import children, free_port, until

KEYLEDGER = str(Path(sys.executable).with_name("keyledger"))


class Service:
    """A complete Keyledger as `keyledger up` runs it, with its own data directory and port."""

    workspace = "default"

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = _environment() | {
            "KEYLEDGER_DATA_DIR": str(data_dir),
            "KEYLEDGER_PORT": str(self.port),
            **_audit_database(data_dir),
            **settings,
        }
        self._lines: list[str] = []

    @property
    def audit_database(self) -> str:
        """The URL of its audit log, by default a file in the data directory."""
        file = self.data_dir / "audit.db"
        return self.environment.get("KEYLEDGER_AUDIT_DATABASE_URL", f"sqlite:///{file}")

    @property
    def output(self) -> str:
        """Returns its output so far."""
        return "".join(self._lines)

    def make(self) -> None:
        """Creates the same data directory as a first start, but faster."""
        self.data_dir.mkdir(mode=0o700)
        (self.data_dir / "store").mkdir()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self._process = subprocess.Popen(
            [KEYLEDGER, "up"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        until(self.is_ready, 60, f"readiness of {self.url}")
        until(lambda: "Ctrl-C stops everything" in self.output, 60, "the last line of the start")

    def stop(self) -> int:
        """Stops it as Ctrl-C would, and returns its exit status."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(30)
        self._reader.join(10)
        return status

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)

    def processes(self) -> list[str]:
        """Returns the command lines of all processes that use its data directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.data_dir).encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
        return found

    def is_ready(self) -> bool:
        """Returns whether it is ready. Fails immediately if it has exited."""
        assert self._process.poll() is None, self.output
        try:
            return requests.get(f"{self.url}/readyz", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    def tenant(self, workspace: str) -> "Service":
        """Returns the same service, with another default workspace."""
        same = copy.copy(self)
        same.workspace = workspace
        same.account(f"owner@{workspace}.example", "owner", f"password of {workspace}")
        return same

    def sign_in(self) -> tuple[str, str]:
        """Returns the e-mail and password of the first owner, as printed by the first start."""
        if self.workspace != "default":
            return f"owner@{self.workspace}.example", f"password of {self.workspace}"
        found = re.search(r"(?m)(\S+@\S+)\s+password\s+(\S+)", self.output)
        assert found, self.output
        return found[1], found[2]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a `keyledger` command with the same settings."""
        return subprocess.run(
            [KEYLEDGER, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def key(self, *scopes: str, workspace: str | None = None, name: str = "caller") -> str:
        """Creates a key with these scopes."""
        with self.components() as components:
            new = new_key(name, scopes=scopes)
            made = components.of(KeyComponents).keys.commands.create(
                operator(workspace or self.workspace), new, request()
            )
        assert made.api_key
        return made.api_key.reveal()

    def account(self, email: str, role: str, password: str, workspace: str | None = None) -> str:
        """Adds an account, and returns its e-mail."""
        with self.components() as components:
            components.of(AccountComponents).accounts.add(
                operator(workspace or self.workspace), email, role, password, request()
            )
        return email

    def pid(self, *words: str) -> int:
        """Returns the ID of the process whose command line contains these words."""
        for child in children(self._process.pid):
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if all(any(word in part for part in command) for word in words):
                return child
        raise LookupError(words)

    @contextmanager
    def components(self) -> Iterator[Container]:
        """Yields the components of the command line, in this process to save the time of starting another."""
        with patch.dict(os.environ, self.environment):
            settings = Settings.from_environment()
        components = Container(
            SharedComponents(settings, settings.redis_url or EmbeddedServer.in_directory(self.data_dir).url)
        )
        try:
            yield components
        finally:
            components.shared.store.close()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
