"""What all tests share: real stores, and what a missing program means."""

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

from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.real import need, postgresql_cluster, served

# Where memory can hold what the tests write, it does: a disk that others use too may stand still for seconds,
# and then a store rightly counts as away. What a killed process has written is kept there as well.
_MEMORY = Path("/dev/shm")  # noqa: S108  # each test makes directories of its own in it
_ROOM = 2 * 1024**3  # bytes
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # so that it is read again


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


# What nobody captures is told to nobody, for the telling costs each command some time.
structlog.configure(processors=[_drop])

_configure_logs = structlog.configure

_DURABLE = ["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"]


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test runs within its process configures the logs, for that test alone."""
    before = structlog.get_config()

    def configure(**settings: Any) -> None:
        _configure_logs(**settings | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure)
    yield
    _configure_logs(**before)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def session_tmp() -> Iterator[Path]:
    """The same, for what the whole session shares."""
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def valkey_url(session_tmp: Path) -> Iterator[str]:
    """The embedded Valkey, for the whole session."""
    server = EmbeddedServer.in_directory(session_tmp / "valkey")
    with served(server.command, server.url) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(session_tmp: Path) -> Iterator[str]:
    """A Redis 7 of the system, for the whole session."""
    binary = need(shutil.which("redis-server"), "redis-server")
    directory = session_tmp / "redis"
    directory.mkdir()
    socket = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", "", *_DURABLE]
    with served([binary, *options], f"unix://{socket}") as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL cluster of our own, for the whole session: the directory of its socket."""
    with postgresql_cluster() as directory:
        yield directory


@pytest.fixture
def fake_store() -> Redis:
    """A store in memory, empty."""
    store: Redis = fakeredis.FakeRedis()
    return store


@pytest.fixture
def store(valkey_url: str) -> Iterator[Redis]:
    """A real store, empty."""
    with connect(valkey_url) as client:
        client.flushall()
        yield client


@pytest.fixture(params=["fakeredis", "valkey", "redis"])
def any_store(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """Each kind of store, empty."""
    if request.param == "fakeredis":
        yield fakeredis.FakeRedis()
        return
    with connect(request.getfixturevalue(f"{request.param}_url")) as client:
        client.flushall()
        yield client
