"""What `shared.connections` promises, on real servers."""

import fcntl
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import connections
from shared.connections import (
    DataDirectoryError,
    DataDirectoryInUseError,
    EmbeddedServer,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    connect,
    ensure_reachable,
    open_store,
)
from shared.settings import Settings

DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
VALKEY = connections._binary()  # noqa: SLF001  # the tests start servers of their own with it


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


def answers(url: str) -> bool:
    try:
        with closing(Redis.from_url(url, protocol=2)) as client:
            return bool(client.ping())
    except RedisConnectionError:
        return False


@contextmanager
def running(program: str, directory: Path, **options: str) -> Iterator[str]:
    """A server with our settings and those given, and its URL."""
    path = directory / "server.sock"
    words = {"port": "0", "unixsocket": str(path), "dir": str(directory), "save": "", **DURABLE}
    words |= {name.replace("_", "-"): value for name, value in options.items()}
    arguments = [word for name, value in words.items() for word in (f"--{name}", value)]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            until(path.exists)
            yield f"unix://{path}"
        finally:
            process.terminate()


@pytest.fixture(params=["valkey", "redis"])
def program(request: pytest.FixtureRequest) -> str:
    found = VALKEY if request.param == "valkey" else shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


def refused(client: Redis, error: type[StoreError], text: str) -> str:
    """The one line that a server is refused with."""
    with pytest.raises(error) as refusal:
        ensure_reachable(client)
    message = str(refusal.value)
    assert text in message
    assert len(message.splitlines()) == 1
    return message


class FakeServer:
    """Answers each command by the first word of it, or OK, on a Unix socket."""

    def __init__(self, path: Path, **replies: bytes) -> None:
        self.replies = replies
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
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


# A server by its URL


def test_a_durable_server_is_accepted(program: str, tmp_path: Path) -> None:
    with running(program, tmp_path) as url, connect(url) as client:
        ensure_reachable(client)
        client.set("name", "value")
        assert client.get("name") == b"value"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
    ],
)
def test_a_server_that_could_lose_events_is_refused_with_the_line_to_change(
    setting: str, value: str, program: str, tmp_path: Path
) -> None:
    with running(program, tmp_path, **{setting: value}) as url, connect(url) as client:
        with pytest.raises(UnsafeStoreError) as refusal:
            client.set("name", "value")
        assert f"set `{setting} {DURABLE[setting]}` in" in str(refusal.value)


def test_every_wrong_line_is_named_at_once(tmp_path: Path) -> None:
    wrong = "`appendonly yes`, `appendfsync always` in"
    with running(VALKEY, tmp_path, appendonly="no", appendfsync="no") as url, connect(url) as client:
        refused(client, UnsafeStoreError, wrong)


def test_a_server_that_turned_unsafe_is_refused_at_the_next_connection(tmp_path: Path) -> None:
    with running(VALKEY, tmp_path) as url, connect(url) as client, closing(Redis.from_url(url)) as operator:
        ensure_reachable(client)
        operator.config_set("appendfsync", "everysec")
        operator.client_kill_filter(_type="normal", skipme=True)
        for _ in range(2):  # a refused connection must not be taken for a checked one later
            with pytest.raises(UnsafeStoreError):
                client.get("name")
        operator.config_set("appendfsync", "always")
        assert client.get("name") is None


def test_an_unsafe_server_can_be_allowed_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(VALKEY, tmp_path, appendfsync="no") as url, caplog.at_level(logging.WARNING):
        for _ in range(3):
            with connect(url, allow_unsafe=True) as client:
                ensure_reachable(client)
    (record,) = caplog.records
    assert "appendfsync always" in record.getMessage()


def test_a_server_that_hides_its_settings_is_refused(tmp_path: Path) -> None:
    with running(VALKEY, tmp_path) as url, closing(Redis.from_url(url)) as operator:
        operator.acl_setuser("shy", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
        with connect(url.replace("unix://", "unix://shy:any@")) as client:
            refused(client, UnsafeStoreError, "allow its user INFO and CONFIG GET")


def test_a_server_older_than_redis_7_is_refused(tmp_path: Path) -> None:
    info = b"# Server\r\nredis_version:6.2.14\r\n"
    server = FakeServer(tmp_path / "old.sock", INFO=b"$%d\r\n%b" % (len(info), info))
    with closing(server), connect(f"unix://{tmp_path}/old.sock") as client:
        refused(client, UnsafeStoreError, "too old: run Redis 7.0")


def test_a_connection_that_the_server_closed_is_replaced(program: str, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        with running(program, tmp_path) as url:
            client = cleanup.enter_context(connect(url))
            client.set("name", "value")
        with running(program, tmp_path):
            until(lambda: answers(url))
            assert client.get("name") == b"value"


def test_a_command_whose_answer_is_late_is_not_sent_again(tmp_path: Path) -> None:
    slow_increment = """
        local started = os.clock()
        while os.clock() - started < 0.3 do end
        return redis.call('INCR', KEYS[1])
    """
    with running(VALKEY, tmp_path) as url, connect(url, timeout=0.1) as hasty, connect(url) as patient:
        hasty.ping()
        with pytest.raises(RedisTimeoutError):
            hasty.eval(slow_increment, 1, "count")
        until(lambda: patient.get("count"))
        patient.eval(slow_increment, 1, "other")  # whatever was sent before it is done after it
        assert patient.get("count") == b"1"


def test_a_blocking_read_may_take_as_long_as_its_connection_allows(tmp_path: Path) -> None:
    with running(VALKEY, tmp_path) as url, connect(url, timeout=2.0) as client:
        started = time.monotonic()
        assert client.xread({"log": "$"}, block=300) == []
        assert time.monotonic() - started > 0.25


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:s3cret@localhost",
        "redis://:s3cret@localhost:port",
        "redis://:s3cret@localhost:99999",
        "redis://:s3/cret@localhost:6379",
        "redis://:s3cret@localhost/0?no_such_option=1",
        "redis://:s3cret@localhost/0?socket_timeout=long",
        "redis://:s3cret@[::1/0",
    ],
)
def test_a_url_of_no_use_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="KEYLEDGER_REDIS_URL cannot be read") as refusal:
        connect(url)
    assert "s3" not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("url", ["redis://:s3cret@localhost:1/0", "unix:///no/such?password=s3cret"])
def test_a_server_that_is_not_there_is_said_in_one_line_without_the_password(url: str) -> None:
    with connect(url) as client:
        assert "s3cret" not in refused(client, StoreUnavailableError, "does not answer")


@pytest.mark.parametrize("user", ["", ":wr0ng@"])
def test_a_wrong_password_is_said_without_showing_it(user: str, tmp_path: Path) -> None:
    with running(VALKEY, tmp_path, requirepass="s3cret") as url:
        client = connect(url.replace("unix://", f"unix://{user}"))
        assert "wr0ng" not in refused(client, StoreUnavailableError, "refuses the user or password")


# The embedded server


def settings(data_dir: Path, redis_url: str | None = None) -> Settings:
    return Settings(
        data_dir=data_dir,
        redis_url=redis_url,
        audit_database_url="sqlite://",
        host="127.0.0.1",
        port=8000,
        secret_key=None,
        key_prefix="kl",
        allow_unsafe_store=False,
    )


def use(data_dir: Path) -> None:
    with open_store(settings(data_dir)):
        pass


def identity(url: str) -> tuple[str, int]:
    """Which run of the server it is, and its process."""
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


def test_a_url_that_is_set_is_taken_and_nothing_is_made(tmp_path: Path) -> None:
    with open_store(settings(tmp_path / "data", "redis://store:6379")) as url:
        assert url == "redis://store:6379"
    assert not (tmp_path / "data").exists()


def test_the_embedded_server_runs_only_as_long_as_it_is_used_and_keeps_what_it_got(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path / "data")
    with open_store(settings(tmp_path / "data")) as url, connect(url) as client:
        client.set("name", "value")
    assert is_stopped(server)
    with open_store(settings(tmp_path / "data")) as url, connect(url) as client:
        assert client.get("name") == b"value"


def test_the_embedded_server_is_durable_and_closed_to_others(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_store(settings(data_dir)) as url, connect(url) as client:
        ensure_reachable(client)  # refuses what is not durable
        assert client.config_get("port", "save") == {"port": "0", "save": ""}
        modes = [
            stat.S_IMODE((data_dir / path).stat().st_mode) for path in ("", "store", "store/valkey.sock")
        ]
        assert modes == [0o700, 0o700, 0o700]


def test_who_leaves_first_does_not_stop_the_server_of_the_others(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with ExitStack() as second:
        with open_store(settings(tmp_path)) as url:
            first = identity(url)
            assert second.enter_context(open_store(settings(tmp_path))) == url
        assert identity(url) == first
    assert is_stopped(server)


def test_many_commands_at_once_share_one_server_and_the_last_stops_it(tmp_path: Path) -> None:
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
from pathlib import Path
from shared.connections import EmbeddedServer
with EmbeddedServer.in_directory(Path(sys.argv[1])).joined():
    print("joined", flush=True)
    time.sleep(60)
"""


@contextmanager
def command_on(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of its own process that has the embedded server, until it is killed."""
    arguments = [sys.executable, "-c", COMMAND, str(data_dir)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            yield process
        finally:
            process.kill()


def test_a_server_that_a_killed_command_left_is_joined_and_stopped_by_the_next(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command:
        left = identity(server.url)
        command.kill()
        command.wait()
        with open_store(settings(tmp_path)) as url:
            assert identity(url) == left
        assert is_stopped(server)


def test_ctrl_c_reaches_the_command_and_not_its_server(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command, open_store(settings(tmp_path)) as url:
        before = identity(url)
        assert os.getsid(before[1]) not in {os.getsid(command.pid), os.getsid(0)}
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(10) != 0
        assert identity(url) == before
    assert is_stopped(server)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed on Linux only")
def test_the_server_inherits_nothing_but_its_lock(tmp_path: Path) -> None:
    with (tmp_path / "not for the server").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with open_store(settings(tmp_path)) as url:
            opened = {link.resolve().name for link in Path(f"/proc/{identity(url)[1]}/fd").iterdir()}
    assert "server.lock" in opened
    assert "not for the server" not in opened
    assert "users.lock" not in opened


def test_a_data_directory_too_deep_for_a_socket_works(tmp_path: Path) -> None:
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


def test_somebody_elses_directory_is_not_used_for_the_socket(tmp_path: Path) -> None:
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


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    with open_store(settings(tmp_path / 'it\'s "ü" 50%25 #1?')) as url:
        assert identity(url)


def test_a_socket_file_that_was_left_over_does_no_harm(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(server.socket))
    with open_store(settings(tmp_path)) as url:
        assert identity(url)


def test_a_server_out_of_sight_gets_no_second_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with open_store(settings(tmp_path)):
        hidden = server.socket.rename(tmp_path / "hidden.sock")
        monkeypatch.setattr(connections, "_SILENCE_S", 0.3)
        with pytest.raises(StoreUnavailableError, match="runs but does not answer"):
            use(tmp_path)
        hidden.rename(server.socket)


def test_a_server_that_is_still_loading_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    monkeypatch.setattr(connections, "_SILENCE_S", 0.2)
    loading = FakeServer(server.socket, PING=b"-LOADING Redis is loading the dataset in memory")
    with closing(loading), (tmp_path / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not server.is_ready()

        def finish() -> None:
            loading.replies["PING"] = b"+PONG"
            loading.replies["SHUTDOWN"] = b"-ERR not now"

        timer = threading.Timer(0.6, finish)
        timer.start()
        monkeypatch.setattr(connections, "_STOPPING_S", 0.1)
        started = time.monotonic()
        with open_store(settings(tmp_path)):
            assert time.monotonic() - started >= 0.5
        timer.join()


def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    EmbeddedServer.in_directory(tmp_path)
    (tmp_path / "store" / "appendonlydir").mkdir()
    (tmp_path / "store" / "appendonlydir" / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(StoreUnavailableError, match=r"does not start: .*valkey\.log") as refusal:
        use(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1
    assert is_stopped(EmbeddedServer.in_directory(tmp_path))


@pytest.mark.parametrize("place", ["file", "file/data", "/proc/keyledger"])
def test_a_data_directory_of_no_use_is_said_in_one_line(place: str, tmp_path: Path) -> None:
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


def test_a_second_up_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    told = rf"already runs .*process {os.getpid()}\)"
    with server.held(), pytest.raises(DataDirectoryInUseError, match=told), server.held():
        pass
    with server.held():
        assert not is_stopped(server)  # it is free again, and taken by this one


def test_up_waits_for_a_short_command_to_end(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with ExitStack() as command:
        command.enter_context(open_store(settings(tmp_path)))
        timer = threading.Timer(0.2, command.close)
        timer.start()
        with server.held():
            assert not answers(server.url)
        timer.join()


def test_up_is_refused_while_a_long_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_TAKEOVER_S", 0.2)
    server = EmbeddedServer.in_directory(tmp_path)
    with open_store(settings(tmp_path)) as url:
        with pytest.raises(DataDirectoryInUseError, match="Another keyledger command"), server.held():
            pass
        assert identity(url)
    assert is_stopped(server)


def test_up_stops_a_server_that_was_left_behind(tmp_path: Path) -> None:
    server = EmbeddedServer.in_directory(tmp_path)
    with command_on(tmp_path) as command:
        command.kill()
        command.wait()
        assert answers(server.url)
        with server.held() as lock:
            assert not answers(server.url)
            with supervised(server, lock):
                assert identity(server.url)


def test_under_up_commands_wait_for_its_server_and_never_start_or_stop_one(tmp_path: Path) -> None:
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


def test_a_server_that_outlives_up_is_joined_and_stopped_by_the_next_command(tmp_path: Path) -> None:
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
