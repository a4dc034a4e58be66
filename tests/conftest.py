"""Fixtures for all tests: real stores and databases, temporary directories and logging."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import fakeredis
import pytest
import structlog
from redis import Redis

from shared.service.components import Container
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.installations import Making, close, components_in
from tests.support.postgresql import postgresql_cluster
from tests.support.processes import need, served

# Tests write to memory if it is large enough, because a shared disk may stall for seconds, and then a store
# correctly counts as unavailable. Data written by a killed process is kept in memory, too.
_MEMORY = Path("/dev/shm")  # noqa: S108  # each test makes directories of its own in it
_ROOM = 2 * 1024**3  # bytes
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # so that it is read again


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


# Drop log lines that no test captures, because writing them slows each command down.
structlog.configure(processors=[_drop])

_configure_logs = structlog.configure

_DURABLE = ["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"]


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the logging configuration after a test that runs a command in this process."""
    before = structlog.get_config()

    def configure(**settings: Any) -> None:
        _configure_logs(**settings | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure)
    yield
    _configure_logs(**before)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def session_tmp() -> Iterator[Path]:
    """A temporary directory like `short_tmp` for the whole session."""
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def valkey_url(session_tmp: Path) -> Iterator[str]:
    """The URL of an embedded Valkey for the whole session."""
    server = EmbeddedServer.in_directory(session_tmp / "valkey")
    with served(server.command, server.url) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(session_tmp: Path) -> Iterator[str]:
    """The URL of the system's Redis 7 for the whole session."""
    binary = need(shutil.which("redis-server"), "redis-server")
    directory = session_tmp / "redis"
    directory.mkdir()
    socket = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", "", *_DURABLE]
    with served([binary, *options], f"unix://{socket}") as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The socket directory of a temporary PostgreSQL cluster for the whole session."""
    with postgresql_cluster() as directory:
        yield directory


@pytest.fixture
def fake_store() -> Redis:
    """An empty in-memory store."""
    store: Redis = fakeredis.FakeRedis()
    return store


@pytest.fixture
def store(valkey_url: str) -> Iterator[Redis]:
    """An empty real store."""
    with connect(valkey_url) as client:
        client.flushall()
        yield client


@pytest.fixture(params=["fakeredis", "valkey", "redis"])
def any_store(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """An empty store of each kind."""
    if request.param == "fakeredis":
        yield fakeredis.FakeRedis()
        return
    with connect(request.getfixturevalue(f"{request.param}_url")) as client:
        client.flushall()
        yield client


@pytest.fixture
def making(store: Redis, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Making]:
    """Creates a Keyledger on the emptied store with its own data directory, and with an audit key if
    one is given.
    """
    made: list[Container] = []

    def make(key_file: Path | None = None, database: str | None = None, ack_replicas: int = 0) -> Container:
        store.flushall()
        directory = tmp_path_factory.mktemp("made")
        if key_file:
            shutil.copy(key_file, directory)
        made.append(components_in(directory, valkey_url, database, ack_replicas))
        return made[-1]

    yield make
    for components in made:
        close(components)
