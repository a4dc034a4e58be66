"""A former Keyledger with its backup, and new ones on an empty store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from services.audit.components import AuditComponents
from shared.service.components import Container
from shared.store.connections import connect
from tests.services.keyledgers import Earlier, Making, backed_up, close, live, parts_in, seen


@pytest.fixture(scope="module")
def past(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    """A former Keyledger and its backup, created once. Tests don't change it."""
    directory = tmp_path_factory.mktemp("past")
    with connect(valkey_url) as store:
        store.flushall()
    components = live(parts_in(directory, valkey_url))
    taken = backed_up(components, directory / "backup.jsonl")
    found = Earlier(
        directory / "backup.jsonl", taken, seen(components), components.of(AuditComponents).key_file
    )
    close(components)
    return found


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
        made.append(parts_in(directory, valkey_url, database, ack_replicas))
        return made[-1]

    yield make
    for components in made:
        close(components)
