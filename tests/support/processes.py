"""Programs that tests run: finding them, starting them, and waiting for them."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from redis import RedisError

from shared.store.connections import connect


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


def children(pid: int) -> list[int]:
    """Returns the child processes of a process, oldest first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
