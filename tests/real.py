"""Real programs for the tests: whether they are there, and waiting for what they do."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from redis import RedisError

from shared.connections import connect


def need(program: str | None, name: str) -> str:
    """The program's path. A user's machine may lack it; the gate's may not."""
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and CI=true says that it must be")
    if program is None:
        pytest.skip(f"{name} is not installed on this machine")
    return program


def until(condition: Callable[[], object], within: float = 10.0, what: str = "it") -> None:
    """Asks again and again until it is so; fails at the deadline."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within} s"
        time.sleep(0.02)


def served(command: list[str], url: str) -> Iterator[str]:
    """Runs a store while it is used, and gives its URL."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: _answers(url), what="the store's answer")
            yield url
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        with connect(url) as client:
            return bool(client.ping())
    except RedisError:
        return False
