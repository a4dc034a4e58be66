"""The audit log's relay, job and worker are killed before and after each call, and restarted."""

from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from services.audit.ingest.job import QUEUE, Requests
from services.audit.ingest.relay import Relay
from tests.support.crash_points import World, at_each_point
from tests.support.crashes import Crasher, Ending, Place
from tests.support.histories import in_step
from tests.support.principals import now

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("quiet", "small_pages"),
]

_JOBS = f"rq:queue:{QUEUE}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'audit.db'}"
    return f"postgresql://keyledger@/postgres?host={request.getfixturevalue('postgresql_server')}"


@pytest.fixture
def audited(store: Redis, valkey_url: str, database_url: str, tmp_path: Path, crashing: Crasher) -> World:
    """The same world, on each kind of database."""
    return World(store, Place(valkey_url, database_url, str(tmp_path / "audit_key.pem")), crashing)


def test_a_killed_relay_requests_the_audit_job_again_after_its_restart(world: World) -> None:
    at_each_point(world, "relay", world.populate, partial(_restart_audit, world))


def test_a_killed_audit_job_writes_each_event_once(audited: World) -> None:
    def recover(_: Ending) -> None:
        with audited.log() as log:
            # A transaction is all or nothing.
            assert log.last().position in {0, 2, 4, 5}
        assert audited.run("audit").killed is None

    at_each_point(audited, "audit", audited.populate, recover)


def test_a_killed_audit_worker_leaves_no_events_unprocessed(world: World) -> None:
    def prepare() -> None:
        world.populate()
        Requests(world.store).ask()

    at_each_point(world, "work", prepare, partial(_restart_audit, world))


def _restart_audit(world: World, _: Ending) -> None:
    """Restarts the relay and the worker, which bring the log up to date by themselves."""
    with world.log() as log:
        Relay(world.ledger, log, Requests(world.store), now).step(wait_ms=1)
        complete = in_step(log, world.ledger) and log.last_checkpoint() is not None
        assert world.store.llen(_JOBS) == (0 if complete else 1)
        if world.store.llen(_JOBS):
            world.run("work")
        assert in_step(log, world.ledger)
        assert log.last_checkpoint() is not None
        assert world.store.llen(_JOBS) == 0
