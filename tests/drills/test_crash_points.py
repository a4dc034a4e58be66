"""Each operation is killed before and after each of its calls to store and database, and restarted."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from services.audit import jobs
from services.audit.audit_log import AuditLog
from services.audit.integrity import Trust
from services.audit.integrity import check as check_audit_log
from services.audit.jobs import QUEUE, Requests, catch_up
from services.audit.relay import Relay
from services.audit.signing import Signer
from services.keys import projector, rebuild
from services.keys import views as views_module
from services.keys.commands import KeyCommands, NewKey, fold
from services.keys.domain import ChangeKey, Key
from services.keys.projector import Projector
from services.keys.rebuild import check, replay
from services.keys.views import Views
from shared.events import decode
from shared.ledger import Ledger
from tests.audit.histories import in_step
from tests.audit.tampering import Tampered
from tests.drills.crashing import PAGE, Crasher, Ending, Place, append, crasher
from tests.keys.people import REQUEST, now, person
from tests.real import until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]

_MOST_POINTS = 2_000
_JOBS = f"rq:queue:{QUEUE}"


@dataclass(frozen=True)
class World:
    """A store and a database that processes are killed on, emptied for each time."""

    store: Redis
    place: Place
    crasher: Crasher

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @property
    def views(self) -> Views:
        return Views(self.store)

    @contextmanager
    def log(self) -> Iterator[AuditLog]:
        log = AuditLog(self.place.database_url)
        try:
            yield log
        finally:
            log.close()

    def empty(self) -> None:
        """Nothing is left of the time before, not even the scripts that the store knew."""
        self.store.flushall()
        self.store.script_flush()
        for left in Path(self.place.key_file).parent.glob("*audit_key*"):
            left.unlink()
        url = self.place.database_url
        if url.startswith("postgresql"):
            server = Tampered(url)
            server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
            server.close()
            return
        file = Path(url.removeprefix("sqlite:///"))
        for left in file.parent.glob(f"{file.name}*"):
            left.unlink()

    def populate(self) -> None:
        """Three keys, two of them switched: more events than a page holds."""
        ids = (f"event-{number}" for number in count(1))
        commands = KeyCommands(self.ledger, "kl", random.Random(3).randrange, ids.__next__, now)
        made = [commands.create(person(), NewKey(name=str(n)), REQUEST).key.id for n in range(3)]
        for key_id in made[:2]:
            commands.change(person(), key_id, ChangeKey(enabled=False), REQUEST)

    def clients(self) -> set[str]:
        listed: Any = self.store.client_list()
        return {client["id"] for client in listed}

    def run(self, operation: str, kill_at: int = 0) -> Ending:
        """Runs an operation, and waits until the store has done what a killed process had sent to it."""
        before = self.clients()
        ending = self.crasher.run(operation, self.place, kill_at)
        until(lambda: self.clients() <= before, what="the end of the killed process's connections")
        return ending

    def listed(self) -> list[Key]:
        return self.views.page("default", 100).keys

    def folded(self) -> list[Key]:
        """What the list must be: each key by its own history, newest first."""
        ids = dict.fromkeys(decode(record).subject for record in self.ledger.read(0, 1000))
        return [fold(self.ledger.history(subject)) for subject in ids][::-1]


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crasher]:
    with crasher(tmp_path_factory.mktemp("crashes")) as running:
        yield running
    print(f"\n{_TRIED.total()} crash points in all: {dict(_TRIED)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'audit.db'}"
    return f"postgresql://keyledger@/postgres?host={request.getfixturevalue('postgresql_server')}"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What hundreds of recoveries log is of no interest."""
    with capture_logs():
        yield


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the crashing process has them."""
    for module, name in ((projector, "PAGE"), (rebuild, "_PAGE"), (jobs, "PAGE")):
        monkeypatch.setattr(module, name, PAGE)
    monkeypatch.setattr(rebuild, "_OLD_GENERATION_S", 0.0)


@pytest.fixture
def world(store: Redis, valkey_url: str, tmp_path: Path, crashing: Crasher) -> World:
    key_file = str(tmp_path / "audit_key.pem")
    return World(store, Place(valkey_url, f"sqlite:///{tmp_path / 'audit.db'}", key_file), crashing)


@pytest.fixture
def audited(store: Redis, valkey_url: str, database_url: str, tmp_path: Path, crashing: Crasher) -> World:
    """The same, on each kind of database."""
    return World(store, Place(valkey_url, database_url, str(tmp_path / "audit_key.pem")), crashing)


def at_each_point(
    world: World, operation: str, prepare: Callable[[], None], recover: Callable[[Ending], None]
) -> None:
    """Kills it at its first moment, its second and so on, until it ends before it is killed."""
    tried: Counter[str] = Counter()
    for kill_at in range(1, _MOST_POINTS):
        world.empty()
        prepare()
        ending = world.run(operation, kill_at)
        try:
            recover(ending)
            _is_sound(world)
        except Exception as error:
            raise AssertionError(f"{operation}, killed {ending.killed} (moment {kill_at})") from error
        if ending.killed is None:
            break
        tried[ending.killed.split()[0]] += 1
    print(f"\n{operation}: {tried.total()} crash points, {dict(tried)}")
    assert ending.killed is None, "it was never complete"
    # Each moment of the complete run was a crash point of a run before. (Threads may make some runs longer.)
    assert tried.total() >= ending.moments > 0
    _TRIED[operation] += tried.total()


_TRIED: Counter[str] = Counter()


def _is_sound(world: World) -> None:
    """Views and audit log are brought up to date; then all of them say the same, each thing once."""
    working = Projector(world.ledger, world.views)
    while working.step(wait_ms=1):
        pass
    records = world.ledger.read(0, 1000)
    events = [decode(record) for record in records]
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    assert len({event.id for event in events}) == len(events)
    for subject in {event.subject for event in events}:
        own = [event for event in events if event.subject == subject]
        assert world.ledger.history(subject) == own
        assert [event.version for event in own] == list(range(1, len(own) + 1))
    assert world.views.live().checkpoint() == world.ledger.head()
    assert world.listed() == world.folded()
    assert check(world.ledger, world.views).equal
    with world.log() as log:
        while catch_up(log, world.ledger):
            pass
        assert in_step(log, world.ledger)
        world.place.notary(log).vouch()
        signer = Signer(Path(world.place.key_file))
        trust = Trust(signer.public_key, signer.anchor())
        assert check_audit_log(log, world.ledger, trust, lambda *_: None).findings == []


def test_an_append_that_is_killed_is_done_once_by_its_repetition(world: World) -> None:
    def recover(ending: Ending) -> None:
        events = [decode(record) for record in world.ledger.read(0, 100)]
        there = [f"{event.position} {event.subject.removeprefix('key:')}" for event in events[5:]]
        # One may be there that the killed process was not told of.
        assert there[: len(ending.acknowledged)] == ending.acknowledged
        assert len(there) <= len(ending.acknowledged) + 1
        told: list[str] = []
        append(world.place, told.append)
        assert told[0] == (there or told)[0]
        created = [event for event in map(decode, world.ledger.read(5, 100)) if event.type == "KeyCreated"]
        assert len(created) == 1

    at_each_point(world, "append", world.populate, recover)


def test_a_projection_that_is_killed_counts_each_event_once(world: World) -> None:
    at_each_point(world, "project", world.populate, lambda _: None)


def test_a_rebuild_that_is_killed_is_seen_by_nobody_and_can_be_run_again(world: World) -> None:
    def prepare() -> None:
        world.populate()
        world.run("project")

    def recover(_: Ending) -> None:
        assert world.listed() == world.folded()
        world.store.delete(views_module._LEASE)  # as it goes by itself some seconds later
        replay(world.ledger, world.views)
        live = world.views.live()
        found: Any = world.store.keys(f"{views_module._ROOT}*")
        names = {name.decode().removeprefix(views_module._ROOT) for name in found}
        assert {name.split(":")[0] for name in names} - {"live"} == {live.name}

    at_each_point(world, "rebuild", prepare, recover)


def test_a_relay_that_is_killed_asks_again_when_it_is_restarted(world: World) -> None:
    at_each_point(world, "relay", world.populate, partial(_restart_audit, world))


def test_an_audit_job_that_is_killed_writes_each_event_once(audited: World) -> None:
    def recover(_: Ending) -> None:
        with audited.log() as log:
            # A transaction is there whole or not at all.
            assert log.last().position in {0, 2, 4, 5}
        assert audited.run("audit").killed is None

    at_each_point(audited, "audit", audited.populate, recover)


def test_an_audit_worker_that_is_killed_leaves_nothing_undone(world: World) -> None:
    def prepare() -> None:
        world.populate()
        Requests(world.store).ask()

    at_each_point(world, "work", prepare, partial(_restart_audit, world))


def _restart_audit(world: World, _: Ending) -> None:
    """Relay and worker begin anew, and between them bring the log up to the ledger without other help."""
    with world.log() as log:
        Relay(world.ledger, log, Requests(world.store), now).step(wait_ms=1)
        complete = in_step(log, world.ledger) and log.last_checkpoint() is not None
        assert world.store.llen(_JOBS) == (0 if complete else 1)
        if world.store.llen(_JOBS):
            world.run("work")
        assert in_step(log, world.ledger)
        assert log.last_checkpoint() is not None
        assert world.store.llen(_JOBS) == 0
