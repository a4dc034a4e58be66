"""Fixtures for the tests that kill a process at each of its crash points."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from services.audit.ingest import job as jobs
from services.keys.read_model import projector
from services.keys.read_model.rebuild import build, replay
from tests.support.crash_points import TRIED, World
from tests.support.crashes import PAGE, Crasher, Place, crasher


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crasher]:
    with crasher(tmp_path_factory.mktemp("crashes")) as running:
        yield running
    print(f"\n{TRIED.total()} crash points in all: {dict(TRIED)}")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Hides the log output of hundreds of recoveries."""
    with capture_logs():
        yield


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns the same components as in the crashing process."""
    for module, name in ((projector, "PAGE"), (build, "_PAGE"), (jobs, "PAGE")):
        monkeypatch.setattr(module, name, PAGE)
    monkeypatch.setattr(replay, "_OLD_GENERATION_S", 0.0)


@pytest.fixture
def world(store: Redis, valkey_url: str, tmp_path: Path, crashing: Crasher) -> World:
    key_file = str(tmp_path / "audit_key.pem")
    return World(store, Place(valkey_url, f"sqlite:///{tmp_path / 'audit.db'}", key_file), crashing)
