"""Forged and broken jobs in the queue: one worker processes them all and runs none of them."""

import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from services.audit.ingest.job import FAILURE_TTL_S, FUNCTION, QUEUE, Requests
from services.audit.log.store import AuditLog
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect
from tests.support.audit_processes import running, work
from tests.support.histories import grow, in_step
from tests.support.processes import until

_CANARY = """
from pathlib import Path
Path({marker!r}).touch()
def run(*arguments): pass
"""


class Hook(BaseHTTPRequestHandler):
    """Records webhook calls."""

    calls: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # the name is http.server's
        self.calls.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


class Evil:
    """Calls os.mkdir when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


@dataclass
class Scene:
    """Forged jobs, the files and webhooks they would touch, and their outcomes."""

    store: Redis
    directory: Path
    hook: str
    ids: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    ttls: dict[str, int] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    caught_up: bool = False
    survived: bool = False
    workers: int = 0

    def job(self, name: str, queue: str = QUEUE, **fields: str | bytes) -> str:
        """Enqueues a job like ours, with forged fields."""
        job = Queue(queue, connection=self.store, serializer=JSONSerializer).enqueue(FUNCTION)
        self.ids[name] = job.id
        for field_name, value in fields.items():
            self.store.hset(f"rq:job:{job.id}", field_name, value)
        return str(job.id)

    def call(self, function: str, *arguments: Any, instance: Any = None, **keywords: Any) -> bytes:
        """The data of a job that calls another function."""
        return zlib.compress(JSONSerializer.dumps((function, instance, arguments, keywords)))

    def marker(self, name: str) -> str:
        """A path that a forged job would create."""
        return str(self.directory / f"made-by-{name}")

    @property
    def made(self) -> list[str]:
        """The paths that forged jobs created."""
        return [path.name for path in self.directory.glob("made-by-*")]


def forge(scene: Scene) -> None:
    """Enqueues one forged job of each kind."""
    mkdir = scene.call("os.mkdir", scene.marker("mkdir"))
    webhooks = json.dumps([{"url": scene.hook, "job_status": status} for status in ("finished", "failed")])
    scene.job("another function", data=mkdir)
    scene.job("another function, not compressed", data=zlib.decompress(mkdir))
    scene.job("an argument", data=scene.call(FUNCTION, scene.marker("argument")))
    scene.job("a keyword", data=scene.call(FUNCTION, pages=10**9))
    scene.job("an instance", data=scene.call("catch_up", instance="services.audit.jobs"))
    scene.job("a pickle", data=pickle.dumps(Evil(scene.marker("pickle"))))
    scene.job("a compressed pickle", data=zlib.compress(pickle.dumps(Evil(scene.marker("pickle-2")))))
    scene.job("a bomb", data=zlib.compress(b"0" * 100_000_000))
    scene.job("no JSON", data=b"\xff\x00")
    scene.job("empty data", data=b"")
    for kind in ("success", "failure", "stopped"):
        scene.job(f"a {kind} callback", **{f"{kind}_callback_name": "canary.run"})
    scene.job("a failure callback of another function", data=mkdir, failure_callback_name="canary.run")
    scene.job("webhooks", webhooks=webhooks)
    scene.job("webhooks of another function", data=mkdir, webhooks=webhooks)
    scene.job("a dependency", dependency_ids='["another"]')
    scene.job("an old dependency", dependency_id="another")
    scene.job("repeats", repeats_left="3", repeat_intervals="[0]")
    scene.job("retries", retries_left="3", retry_intervals="[0]")
    scene.job("a group", group_id="group")
    scene.job("a rate limit", rate_limit_key="limit", rate_limit_concurrency="1")
    scene.job("a pickled meta", meta=pickle.dumps(Evil(scene.marker("meta"))))
    scene.job("a result", result=pickle.dumps(Evil(scene.marker("result"))))
    scene.job("a field that RQ does not know", another_callback="canary.run")


REFUSED = [
    "another function",
    "another function, not compressed",
    "an argument",
    "a keyword",
    "an instance",
    "a pickle",
    "a compressed pickle",
    "a bomb",
    "no JSON",
    "empty data",
    "a success callback",
    "a failure callback",
    "a stopped callback",
    "a failure callback of another function",
    "webhooks",
    "webhooks of another function",
    "a dependency",
    "an old dependency",
    "repeats",
    "retries",
    "a group",
    "a rate limit",
    "a pickled meta",
    "a result",
    "a field that RQ does not know",
]

_ODD = {
    "status": "nonsense",
    "timeout": "never",
    "result_ttl": "x",
    "failure_ttl": "-1",
    "created_at": "yesterday",
    "enqueued_at": "x",
    "started_at": "x",
    "origin": "other",
    "description": "a\nb",
    "worker_name": "x",
}


def disturb(scene: Scene) -> None:
    """Stores invalid entries, and jobs in every other place where RQ looks for them."""
    store, queue = scene.store, f"rq:queue:{QUEUE}"
    for number, (name, value) in enumerate(_ODD.items()):
        scene.job(f"odd {number}", **{name: value})
    store.set("rq:job:text", "no hash")
    store.rpush(queue, "no/job id!", b"\xff\xfe", "", "nowhere", "text", "a:b:c")
    for name in ("with dependents", "refused with dependents"):
        called = ("os.mkdir", scene.marker("parent")) if name.startswith("refused") else (FUNCTION,)
        parent = scene.job(name, data=scene.call(*called))
        mkdir = scene.call("os.mkdir", scene.marker("dependent"))
        dependent = scene.job(f"dependent of one {name}", "other", data=mkdir, status="deferred")
        store.sadd(f"rq:job:{parent}:dependents", dependent)
    store.delete("rq:queue:other")
    lost = scene.job("of a dead worker", "other", failure_callback_name="canary.run", status="started")
    mkdir = scene.call("os.mkdir", scene.marker("ready"))
    ready = scene.job("ready", "other", data=mkdir, status="ready_to_enqueue")
    for score, execution in enumerate((f"{lost}:execution".encode(), b"odd", b"\xff:\xff"), 1):
        store.zadd(f"rq:wip:{QUEUE}", {execution: score})
    store.zadd(f"rq:ready:{QUEUE}", {ready: 1})
    store.delete("rq:queue:other")
    store.sadd("rq:rl-keys", "limit")
    store.hset("rq:rl:limit", "concurrency", 9)
    store.zadd("rq:rl:limit:rate_limited", {ready: 1})
    store.sadd("rq:groups", "group")
    store.rpush(f"rq:queue:{QUEUE}:intermediate", *(f"stray-{n}" for n in range(300)))
    store.set("rq:suspended", 1)


@pytest.fixture(scope="module")
def scene(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The outcomes of one worker's run, read here because other tests empty the store."""
    directory = tmp_path_factory.mktemp("forged")
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=hook.serve_forever, daemon=True).start()
    (directory / "canary.py").write_text(_CANARY.format(marker=str(directory / "made-by-canary")))
    database_url = f"sqlite:///{directory / 'audit.db'}"
    with connect(valkey_url) as store, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))  # the worker's process gets it as well
        store.flushall()
        found = Scene(store, directory, f"http://127.0.0.1:{hook.server_port}/called")
        ledger, log = Ledger(store), AuditLog(database_url)
        grow(ledger, 10)
        forge(found)
        disturb(found)
        with running(work, valkey_url, database_url, directory / "audit_key.pem") as worker:
            until(lambda: store.llen(f"rq:queue:{QUEUE}") == 0, what="the end of the queue")
            grow(ledger, 10)
            Requests(store).ask()
            until(lambda: log.last().position == 20, what="catching up")
            until(lambda: store.zcard(f"rq:wip:{QUEUE}") == 0, what="the last job's end")
            found.survived = worker.is_alive()
            found.workers = sum(1 for _ in store.scan_iter("rq:worker:*", _type="hash"))
        found.caught_up = in_step(log, ledger)
        log.close()
        look(found)
        yield found
    hook.shutdown()
    hook.server_close()


def look(scene: Scene) -> None:
    """Saves the outcomes of the jobs."""
    for name, job_id in scene.ids.items():
        key = f"rq:job:{job_id}"
        scene.outcomes[name] = scene.store.hgetall(key)
        scene.ttls[name] = scene.store.ttl(key)
        job = Job(job_id, connection=scene.store, serializer=JSONSerializer)
        result = Result.fetch_latest(job, serializer=JSONSerializer)
        scene.reasons[name] = (result.exc_string or "") if result else ""
    for key in scene.store.scan_iter("rq:*", _type="list"):
        scene.queues[key.decode()] = scene.store.llen(key)


def test_the_worker_survives_anything_in_the_queue(scene: Scene) -> None:
    assert scene.survived
    assert scene.workers == 1  # it did not even begin again
    assert scene.caught_up


def test_forged_jobs_do_not_run(scene: Scene) -> None:
    assert scene.made == []
    assert Hook.calls == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_forged_job_fails_with_a_reason(scene: Scene, name: str) -> None:
    assert scene.outcomes[name][b"status"] == JobStatus.FAILED.encode()
    assert scene.reasons[name].startswith("it ")
    assert 0 < scene.ttls[name] <= FAILURE_TTL_S


def test_the_reason_names_the_forged_fields(scene: Scene) -> None:
    assert "os.mkdir" in scene.reasons["another function"]
    assert "it has the fields 'success_callback_name'" in scene.reasons["a success callback"]
    assert "it has the fields 'repeat_intervals', 'repeats_left'" in scene.reasons["repeats"]


@pytest.mark.parametrize("number", range(len(_ODD)))
def test_a_valid_job_with_odd_metadata_still_succeeds(scene: Scene, number: int) -> None:
    # They succeeded, and are deleted or about to expire.
    assert scene.reasons[f"odd {number}"] == ""
    assert scene.outcomes[f"odd {number}"].get(b"status", b"finished") == b"finished"
    assert scene.ttls[f"odd {number}"] in range(-2, 11)


def test_dependent_jobs_are_not_started(scene: Scene) -> None:
    for name in ("dependent of one with dependents", "dependent of one refused with dependents"):
        assert scene.outcomes[name][b"status"] == b"deferred"
    assert scene.reasons["with dependents"] == ""
    assert scene.outcomes["ready"][b"status"] == b"ready_to_enqueue"
    assert set(scene.queues) == {f"rq:queue:{QUEUE}:intermediate"}


def test_leftovers_of_dead_workers_are_removed(scene: Scene) -> None:
    assert scene.outcomes["of a dead worker"] == {}
    assert scene.queues[f"rq:queue:{QUEUE}:intermediate"] <= 110
