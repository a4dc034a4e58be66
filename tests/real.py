"""Real programs for the tests: finding them, running them, and waiting for them."""

import copy
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import psycopg
import psycopg.sql
import pytest
import requests
from redis import Redis, RedisError

from services.accounts.components import AccountComponents
from services.cli.terminal import operator, request
from services.keys.components import KeyComponents
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.keys.people import new_key


def need(program: str | None, name: str) -> str:
    """Returns the program's path. Skips the test if it isn't installed, or fails it with `CI=true`."""
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and CI=true says that it must be")
    if program is None:
        pytest.skip(f"{name} is not installed on this machine")
    return program


def until(condition: Callable[[], object], within: float = 60.0, what: str = "it") -> None:
    """Polls until the condition holds. Fails if it still doesn't after the deadline."""
    deadline, is_late = time.monotonic() + within, False
    while not condition():
        assert not is_late, f"{what} did not happen within {within} s"
        time.sleep(0.02)
        is_late = time.monotonic() >= deadline


@contextmanager
def served(command: list[str], url: str) -> Iterator[str]:
    """Runs a store, and yields its URL."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: answers(url), what="the store's answer")
            yield url
        finally:
            server.terminate()


def answers(url: str) -> bool:
    """Returns whether a store accepts commands."""
    try:
        with connect(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


def free_port() -> int:
    """Returns an unused port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """Returns the first of several consecutive unused ports."""
    while True:
        first = free_port()
        with ExitStack() as probes, suppress(OSError, OverflowError):
            for port in range(first, first + count):
                probes.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


class PostgreSQL:
    """A temporary PostgreSQL cluster. Its directory also contains its socket."""

    def __init__(self, directory: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        self._pg_ctl = Path(need(str(found[-1]) if found else shutil.which("pg_ctl"), "postgresql"))
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._directory = directory

    def make(self) -> None:
        """Creates the cluster, accessible only to its user."""
        if self._user:
            shutil.chown(self._directory, self._user)
        self._run(
            "initdb",
            "--username=keyledger",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def start(self) -> None:
        """Starts it, and waits until it accepts connections."""
        options = f"-k {self._directory} -c listen_addresses='' -c fsync=off -c max_connections=100"
        self._run("pg_ctl", "--wait", f"--log={self._directory}/log", f"--options={options}", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stops it, immediately or in another mode of `pg_ctl`."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._pg_ctl.with_name(program)), "-D", f"{self._directory}/data", *arguments]
        subprocess.run(command, user=self._user, cwd=self._directory, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def postgresql_cluster() -> Iterator[str]:
    """Runs a PostgreSQL cluster, and yields the directory of its socket."""
    with tempfile.TemporaryDirectory(prefix="kl-pg-", ignore_cleanup_errors=True) as directory:
        cluster = PostgreSQL(directory)
        cluster.make()
        cluster.start()
        try:
            yield directory
        finally:
            cluster.stop()


# The directory of a PostgreSQL socket. If it's set, the services under test keep their audit log there.
AUDIT_SERVER = "TESTS_AUDIT_POSTGRESQL"

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


def _audit_database(data_dir: Path) -> dict[str, str]:
    """Returns the settings for PostgreSQL if the tests use it, with one database per data directory."""
    server = os.environ.get(AUDIT_SERVER)
    if server is None:
        return {}
    name = f"of_{hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]}"
    with (
        psycopg.connect(f"postgresql://keyledger@/postgres?host={server}", autocommit=True) as admin,
        suppress(psycopg.errors.DuplicateDatabase),
    ):
        admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return {"KEYLEDGER_AUDIT_DATABASE_URL": f"postgresql://keyledger@/{name}?host={server}"}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}


def children(pid: int) -> list[int]:
    """Returns the child processes of a process, oldest first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def everything(store: Redis) -> Iterator[bytes]:
    """Yields every key and value in a store. Data that RQ compressed is decompressed."""
    readers: dict[object, Callable[[bytes], object]] = {
        b"string": store.get,
        b"hash": store.hgetall,
        b"list": lambda name: store.lrange(name, 0, -1),
        b"set": store.smembers,
        b"zset": lambda name: store.zrange(name, 0, -1),
        b"stream": store.xrange,
        b"none": lambda _: None,  # it expired meanwhile
    }
    for name in store.scan_iter():
        yield name
        for value in _flat(readers[store.type(name)](name)):
            yield value
            with suppress(zlib.error):
                yield zlib.decompress(value)


def _flat(value: object) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for inner in value:
            yield from _flat(inner)
    elif isinstance(value, bytes):
        yield value


class FakeServer:
    """Answers each command on a Unix socket according to its first word, by default with OK."""

    def __init__(self, path: Path, **replies: bytes) -> None:
        self.replies = replies
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                while head := lines.readline():
                    words = [lines.read(int(lines.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                    peer.sendall(self.replies.get(words[0].decode(), b"+OK") + b"\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
