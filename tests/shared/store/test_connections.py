"""`shared.store.connections`, tested on real servers."""

import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.store import embedded
from shared.store.connections import (
    DURABLE,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    connect,
    ensure_reachable,
    is_read_from,
)
from tests.support.fake_server import FakeServer
from tests.support.processes import answers, need, until

VALKEY = embedded._binary()  # the tests start servers of their own with it


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(str(path)) == 0


@contextmanager
def running(program: str, directory: Path, **options: str) -> Iterator[str]:
    """Runs a server with our settings and the given options, and yields its URL."""
    path = directory / "server.sock"
    words = {"port": "0", "unixsocket": str(path), "dir": str(directory), "save": "", **DURABLE}
    words |= {name.replace("_", "-"): value for name, value in options.items()}
    arguments = [word for name, value in words.items() for word in (f"--{name}", value)]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(path))
            yield f"unix://{path}"
        finally:
            process.terminate()


@pytest.fixture(params=["valkey", "redis"])
def program(request: pytest.FixtureRequest) -> str:
    return VALKEY if request.param == "valkey" else need(shutil.which("redis-server"), "redis-server")


def refused(client: Redis, error: type[StoreError], text: str) -> str:
    """Returns the one-line error that a server is rejected with."""
    with pytest.raises(error) as refusal:
        ensure_reachable(client)
    message = str(refusal.value)
    assert text in message
    assert len(message.splitlines()) == 1
    return message


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
def test_a_server_that_could_lose_events_is_rejected_with_the_setting_to_change(
    setting: str, value: str, program: str, tmp_path: Path
) -> None:
    with running(program, tmp_path, **{setting: value}) as url, connect(url) as client:
        with pytest.raises(UnsafeStoreError) as refusal:
            client.set("name", "value")
        assert f"set `{setting} {DURABLE[setting]}` in" in str(refusal.value)


def test_all_wrong_settings_are_reported_together(tmp_path: Path) -> None:
    wrong = "`appendonly yes`, `appendfsync always` in"
    with running(VALKEY, tmp_path, appendonly="no", appendfsync="no") as url, connect(url) as client:
        refused(client, UnsafeStoreError, wrong)


def test_a_server_that_becomes_unsafe_is_rejected_on_the_next_connection(tmp_path: Path) -> None:
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


def test_a_server_whose_settings_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    with running(VALKEY, tmp_path) as url, closing(Redis.from_url(url)) as operator:
        operator.acl_setuser("shy", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
        with connect(url.replace("unix://", "unix://shy:any@")) as client:  # pragma: allowlist secret
            refused(client, UnsafeStoreError, "allow its user INFO and CONFIG GET")


def test_a_server_older_than_redis_7_is_rejected(tmp_path: Path) -> None:
    info = b"# Server\r\nredis_version:6.2.14\r\n"
    server = FakeServer(tmp_path / "old.sock", INFO=b"$%d\r\n%b" % (len(info), info))
    with closing(server), connect(f"unix://{tmp_path}/old.sock") as client:
        refused(client, UnsafeStoreError, "too old: run Redis 7.0")


def test_a_server_that_is_busy_with_a_script_is_unavailable_and_not_unsafe(tmp_path: Path) -> None:
    server = FakeServer(tmp_path / "busy.sock", INFO=b"-BUSY Redis is busy running a script.")
    with closing(server), connect(f"unix://{tmp_path}/busy.sock") as client:
        refused(client, StoreUnavailableError, "busy running a script")


def test_a_connection_closed_by_the_server_is_replaced(program: str, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        with running(program, tmp_path) as url:
            client = cleanup.enter_context(connect(url))
            client.set("name", "value")
        with running(program, tmp_path):
            until(lambda: answers(url))
            assert client.get("name") == b"value"


def test_a_command_that_times_out_is_not_sent_again(tmp_path: Path) -> None:
    slow_increment = """
        local started = os.clock()
        while os.clock() - started < 0.8 do end
        return redis.call('INCR', KEYS[1])
    """
    with running(VALKEY, tmp_path) as url, connect(url, timeout=0.5) as hasty:
        hasty.ping()
        patient = connect(url, timeout=60.0)
        with pytest.raises(RedisTimeoutError):
            hasty.eval(slow_increment, 1, "count")
        until(lambda: answers(url) and patient.get("count"))
        patient.eval(slow_increment, 1, "other")  # whatever was sent before it is done after it
        assert patient.get("count") == b"1"
        patient.close()


def test_a_blocking_read_can_wait_within_the_timeout_of_its_connection(tmp_path: Path) -> None:
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
def test_an_invalid_store_url_is_rejected_without_showing_it(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match=r"KEYLEDGER_REDIS_URL (cannot be read|has)") as refusal:
        connect(url)
    assert "s3" not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("url", ["redis://:s3cret@localhost:1/0", "unix:///no/such?password=s3cret"])
def test_an_unreachable_server_is_reported_in_one_line_without_the_password(url: str) -> None:
    with connect(url) as client:
        assert "s3cret" not in refused(client, StoreUnavailableError, "does not answer")


@pytest.mark.parametrize("user", ["", ":wr0ng@"])
def test_a_wrong_password_is_reported_without_showing_it(user: str, tmp_path: Path) -> None:
    with running(VALKEY, tmp_path, requirepass="s3cret") as url:
        client = connect(url.replace("unix://", f"unix://{user}"))
        assert "wr0ng" not in refused(client, StoreUnavailableError, "refuses the user or password")


def test_a_blocked_reader_is_detected_if_the_user_may_list_clients(program: str, tmp_path: Path) -> None:
    with running(program, tmp_path) as url, connect(url) as client, connect(url, timeout=60) as reader:
        client.acl_setuser("blind", enabled=True, nopass=True, keys="*", commands=["+@all", "-client|list"])
        waiting = Thread(target=reader.xread, args=({"log": "0"},), kwargs={"block": 1_500})
        assert not is_read_from(client)
        waiting.start()
        until(lambda: is_read_from(client), what="the wait")
        with connect(url.replace("unix://", "unix://blind:any@")) as blind:  # pragma: allowlist secret
            assert not is_read_from(blind)
        waiting.join()
        assert not is_read_from(client)
