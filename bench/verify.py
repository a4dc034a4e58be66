"""Verification over HTTP and in process, and creating keys. The floor of HTTP is an empty Flask route."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Event as Stop
from threading import Thread

from msgspec.structs import replace
from redis import Redis

from bench.events import event_of
from bench.figures import Figure
from bench.load import drive
from bench.store import fresh_store
from services.keys.model.token import ApiKey
from services.keys.verification.cache import KeyCache
from services.keys.verification.invalidation import CacheInvalidator
from services.keys.verification.usage import Usage
from services.keys.verification.verifier import Verifier
from shared.clock import now_ms
from shared.eventstore.codec import encode
from shared.eventstore.ledger import LOG, NAMESPACE, Ledger
from shared.store.connections import connect
from shared.text.key_detection import checksum
from tests.support.processes import children, free_port, until
from tests.support.service import Service

_ROUNDS = 5
_SECONDS = 1.0
_ASKED = 1_000
_FEW, _MANY = 1_000, 1_000_000
_CACHED = 100_000
_VERDICTS = 200_000
_PAGE = 1_000
_EMPTY = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def figures() -> Iterator[Figure]:
    yield from _over_http()
    yield from _in_process()


def _over_http() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="kl-bench-") as directory, _floor() as floor:
        service = Service(Path(directory), KEYLEDGER_RATE_LIMIT="0")
        service.start()
        try:
            yield from _calls(service, floor)
        finally:
            service.stop()


def _calls(service: Service, floor: int) -> Iterator[Figure]:
    admin, key = service.key("keyledger:admin"), service.key("orders:read")
    verify = _post("/v1/keys/verify", admin, {"api_key": key, "scopes": ["orders:read"]})
    gate = (
        b"GET /v1/forward-auth?scopes=orders:read HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %b\r\n\r\n"
    )
    asked = {"POST /v1/keys/verify": verify, "GET /v1/forward-auth": gate % key.encode()}
    for connections in (1, 16):
        for name, request in asked.items():
            yield _compared(
                f"{name}, {connections} connection{'s' * (connections > 1)}",
                service.port,
                request,
                floor,
                connections,
            )
    create = _post("/v1/keys", admin, {"name": "Benchmark", "scopes": ["orders:read"]})
    before = _cpu(service)
    figure = _compared("POST /v1/keys, 16 connections, fsync always", service.port, create, floor, 16)
    spent = {name: seconds - before[name] for name, seconds in _cpu(service).items()}
    yield figure
    made = figure.value * _ROUNDS * _SECONDS
    for name, seconds in spent.items():
        yield Figure(f"POST /v1/keys, CPU time of {name} per key", seconds / made * 1e6, unit="µs")


def _compared(name: str, port: int, request: bytes, floor: int, connections: int) -> Figure:
    """Measures both in turn several times, and compares the medians."""
    pairs = [
        (drive(floor, [_EMPTY], connections, _SECONDS), drive(port, [request], connections, _SECONDS))
        for _ in range(_ROUNDS)
    ]
    return Figure(name, median(rate for _, rate in pairs), median(bare for bare, _ in pairs))


@contextmanager
def _floor() -> Iterator[int]:
    """Serves the empty route, and yields its port."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "bench.floor", str(port)]) as server:
        try:
            until(lambda: _answers(port))
            yield port
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    try:
        return drive(port, [_EMPTY], 1, 0.01) > 0
    except OSError:
        return False


def _post(path: str, token: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    )


def _cpu(service: Service) -> dict[str, float]:
    """Returns the CPU seconds used by each program and its child processes so far."""
    programs = {
        "web": ("services.cli", "web"),
        "store": ("valkey-server",),
        "projector": ("services.cli", "projector"),
        "relay": ("services.cli", "relay"),
        "audit worker": ("services.cli", "worker"),
    }
    found = {name: service.pid(*words) for name, words in programs.items()}
    return {name: sum(map(_cpu_seconds, [pid, *children(pid)])) for name, pid in found.items()}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _in_process() -> Iterator[Figure]:
    """Measures in separate processes, because the memory of a used process is fragmented."""
    with (
        fresh_store() as small,
        fresh_store() as large,
        ProcessPoolExecutor(1, get_context("spawn")) as few,
        ProcessPoolExecutor(1, get_context("spawn")) as many,
        ProcessPoolExecutor(1, get_context("spawn")) as caching,
    ):
        for url, size in ((small, _FEW), (large, _MANY)):
            with connect(url, timeout=60) as store:
                _fill(store, size)
        pairs = [
            (few.submit(_rate, small).result(), many.submit(_rate, large).result()) for _ in range(_ROUNDS)
        ]
        of_few, of_many = (median(rates) for rates in zip(*pairs, strict=True))
        yield Figure("verifications in process, on one core", of_few)
        yield Figure(f"verifications with {_MANY:,} keys (floor: with {_FEW:,})", of_many, of_few)
        yield from caching.submit(_cached, large).result()


def _cached(url: str) -> list[Figure]:
    """Measures the memory and time for a process to cache many keys."""
    with _verifier(url) as verifier:
        before, start = _resident(), time.perf_counter()
        for position in range(1, _CACHED + 1):
            assert verifier(_token(position).reveal()).code == "VALID"
        took, grown = time.perf_counter() - start, _resident() - before
    return [
        Figure(f"memory per cached key of {_CACHED:,}", grown / _CACHED, unit="bytes"),
        Figure(f"memory of a process with {_CACHED:,} cached keys", _resident() / 2**20, unit="MiB"),
        Figure("first verification of a key", took / _CACHED * 1e6, unit="µs"),
    ]


def _token(position: int) -> ApiKey:
    payload = f"kl_{position:012d}{'s' * 32}"
    return ApiKey(payload + checksum(payload), "kl", f"{position:012d}")


def _fill(store: Redis, size: int) -> None:
    """Adds keys with valid tokens."""
    pipe = store.pipeline(transaction=False)
    for position in range(1, size + 1):
        token = _token(position)
        event = event_of(token.id, 1)
        event = replace(event, data=replace(event.data, digest=token.digest))
        pipe.xadd(LOG, {"at": 1_790_000_000_000 + position, "event": encode(event)}, id="0-*")
        pipe.rpush(f"{NAMESPACE}:subject:key:{token.id}", position)
        if position % _PAGE == 0:
            pipe.execute()


@contextmanager
def _verifier(url: str) -> Iterator[Verifier]:
    """Runs a verifier as in a web process, with cache invalidation and usage counts."""
    with connect(url) as store, connect(url) as tailed:
        stop, memory, usage = Stop(), KeyCache(_CACHED), Usage(store)
        tail = CacheInvalidator(Ledger(tailed), memory)
        threads = [Thread(target=run, args=(stop,)) for run in (tail.run, usage.run)]
        for thread in threads:
            thread.start()
        until(lambda: tail.fresh_until > time.monotonic())
        try:
            yield Verifier(Ledger(store), memory, tail, now_ms, usage.note)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _rate(url: str) -> float:
    """Returns the verifications per second of the same few keys, all cached."""
    tokens = [_token(position).reveal() for position in range(1, _ASKED + 1)]
    with _verifier(url) as verify:
        for token in tokens:
            assert verify(token, ("orders:read",)).code == "VALID"
        turns = range(_VERDICTS // len(tokens))
        start = time.perf_counter()
        for _ in turns:
            for token in tokens:
                verify(token, ("orders:read",), "default")
        return len(turns) * len(tokens) / (time.perf_counter() - start)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
