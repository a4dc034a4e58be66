"""Acknowledgements that wait for replicas, on a store with one replica."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.eventstore.envelope import Actor, NewEvent, Request, enveloped
from shared.eventstore.events import KeyCreated
from shared.eventstore.ledger import Ledger, NotReplicatedError
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from shared.store.idempotency import Idempotency
from tests.support.processes import answers, free_port, until

ASKED = Idempotency("caller", "asked")


def created(key_id: str) -> list[NewEvent]:
    payload = KeyCreated(
        name="n", description="", prefix="kl", hint="h", digest="d", scopes=(), expires_at=None
    )
    return enveloped(
        [payload],
        subject=f"key:{key_id}",
        after_version=0,
        workspace="default",
        actor=Actor(kind="operator", id="o", label="op"),
        request=Request(id="r", ip=None, user_agent=None),
        new_id=lambda: f"event of {key_id}",
    )


@pytest.fixture
def servers(short_tmp: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a store, and the process of its only replica."""
    port = free_port()
    binary = EmbeddedServer.in_directory(short_tmp / "replicas").command[0]
    options = ["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    options += ["--repl-diskless-sync-delay", "0"]  # nobody else is coming

    def start(place: Path, own_port: int, *more: str) -> subprocess.Popen[bytes]:
        place.mkdir()
        command = [binary, "--port", str(own_port), "--dir", str(place), *options, *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    first = start(tmp_path / "first", port)
    second = start(tmp_path / "second", free_port(), "--replicaof", f"127.0.0.1 {port}")
    url = f"redis://127.0.0.1:{port}"
    try:
        until(lambda: answers(url))
        with connect(url) as client:
            until(lambda: client.set("first", "") and client.wait(1, 500), 20, "the replica's first answer")
        yield url, second
    finally:
        for server in (second, first):
            os.kill(server.pid, signal.SIGCONT)
            server.terminate()
            server.wait(10)


def test_an_event_is_acknowledged_after_the_replica_has_it(
    servers: tuple[str, subprocess.Popen[bytes]],
) -> None:
    with connect(servers[0]) as store:
        assert Ledger(store, ack_replicas=1).append("key:a", created("a"), 0).positions == (1,)


def test_an_append_with_too_few_replicas_fails_until_a_retry_confirms_it(
    servers: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, replica = servers
    with connect(url) as store:
        ledger = Ledger(store, ack_replicas=1, secret_key="a secret of 32 characters at least")
        ledger.append("key:a", created("a"), 0)
        replica.send_signal(signal.SIGSTOP)
        with pytest.raises(NotReplicatedError, match="0 of 1"):
            ledger.append("key:b", created("b"), 0, ASKED)
        with pytest.raises(NotReplicatedError):
            ledger.recall(ASKED)
        with pytest.raises(NotReplicatedError):
            ledger.append("key:b", created("b"), 0, ASKED)
        replica.send_signal(signal.SIGCONT)
        until(lambda: _settled(ledger), 10, "the replica's answer")
        assert ledger.head().position == 2


def _settled(ledger: Ledger) -> bool:
    try:
        outcome = ledger.recall(ASKED)
    except NotReplicatedError:
        return False
    return outcome is not None and outcome.positions == (2,)
