"""The store and database on which processes are killed, and the checks after recovery."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from redis import Redis

from services.audit.ingest.job import catch_up
from services.audit.integrity.signer import Signer
from services.audit.integrity.verify_log import Trust
from services.audit.integrity.verify_log import check as check_audit_log
from services.audit.log.store import AuditLog
from services.keys.commands import KeyCommands, fold
from services.keys.model.key import ChangeKey, Key
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.keys.read_model.rebuild.replay import check
from shared.eventstore.codec import decode
from shared.eventstore.ledger import Ledger
from tests.support.crashes import Crasher, Ending, Place
from tests.support.histories import in_step
from tests.support.principals import REQUEST, new_key, now, principal
from tests.support.processes import until
from tests.support.tampering import Tampered

_MOST_POINTS = 2_000
TRIED: Counter[str] = Counter()  # crash points by operation


@dataclass(frozen=True)
class World:
    """A store and a database on which processes are killed, emptied before each run."""

    store: Redis
    place: Place
    crasher: Crasher

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, secret_key="a secret of 32 characters at least")

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
        """Clears everything, including the scripts that the store has cached."""
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
        """Creates three keys and disables two of them: more events than fit in one batch."""
        ids = (f"event-{number}" for number in count(1))
        commands = KeyCommands(self.ledger, "kl", random.Random(3).randrange, ids.__next__, now)
        made = [commands.create(principal(), new_key(name=str(n)), REQUEST).key.id for n in range(3)]
        for key_id in made[:2]:
            commands.change(principal(), key_id, ChangeKey(enabled=False), REQUEST)

    def clients(self) -> set[str]:
        listed: Any = self.store.client_list()
        return {client["id"] for client in listed}

    def run(self, operation: str, kill_at: int = 0) -> Ending:
        """Runs an operation, and waits until the store has processed all that a killed process had sent."""
        before = self.clients()
        ending = self.crasher.run(operation, self.place, kill_at)
        until(lambda: self.clients() <= before, what="the end of the killed process's connections")
        return ending

    def listed(self) -> list[Key]:
        return self.views.page("default", 100).keys

    def folded(self) -> list[Key]:
        """Returns the expected list: each key folded from its history, newest first."""
        ids = dict.fromkeys(decode(record).subject for record in self.ledger.read(0, 1000))
        return [fold(self.ledger.history(subject)) for subject in ids][::-1]


def at_each_point(
    world: World, operation: str, prepare: Callable[[], None], recover: Callable[[Ending], None]
) -> None:
    """Kills the operation at its first crash point, its second and so on, until it completes."""
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
    # Each step of the complete run was a crash point of an earlier run. (Threads may make some runs longer.)
    assert tried.total() >= ending.moments > 0
    TRIED[operation] += tried.total()


def _is_sound(world: World) -> None:
    """Brings views and audit log up to date, and asserts that they match the ledger without duplicates."""
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
        world.place.notary(log).sign_checkpoint()
        signer = Signer(Path(world.place.key_file))
        trust = Trust(signer.public_key, signer.anchor())
        assert check_audit_log(log, world.ledger, trust, lambda *_: None).findings == []
