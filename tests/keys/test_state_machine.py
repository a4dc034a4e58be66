"""Ledger, projectors and rebuilds in any order, compared with a simple model; and rare interleavings.

The model is a list of what happened. After every step the log must be that list, each history its part,
and the view the fold of its beginning, up to the view's own checkpoint.
"""

import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any, ClassVar, NamedTuple, Protocol, cast
from unittest.mock import patch

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import ConnectionError as StoreIsGoneError
from redis import Redis, RedisError
from redis.client import Pipeline

from services.keys.commands import KeyCommands, StaleVersionError, fold
from services.keys.model.key import ChangeKey, Key, subject
from services.keys.read_model.generations import Generation, Views
from services.keys.read_model.projection import VERSION, Changes, read
from services.keys.read_model.projector import Projector
from services.keys.read_model.rebuild.build import RebuildError
from services.keys.read_model.rebuild.lease import LeaseTakenError
from services.keys.read_model.rebuild.replay import check, replay
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import LOG, Checkpoint, Ledger, VersionConflictError, checkpoint_at
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from shared.store.idempotency import Idempotency, IdempotencyConflictError
from tests.support.principals import REQUEST, new_key, now, principal
from tests.support.processes import answers, until

SECRET = "a secret of 32 characters at least"
_WORKSPACES = ("ours", "theirs")
_VIEWS = "{kl:0}:view:"
_LEASES = f"{_VIEWS}*:rebuild"


class Happened(NamedTuple):
    """One event of the model: a key was created or, without a name, enabled or disabled."""

    key_id: str
    workspace: str
    name: str | None
    enabled: bool


class Row(NamedTuple):
    """The state of a key in the model."""

    workspace: str
    name: str
    enabled: bool
    version: int
    created_position: int

    @classmethod
    def of(cls, key: Key) -> "Row":
        return cls(key.workspace, key.name, key.enabled, key.version, key.created_position)


def rows_of(log: list[Happened]) -> dict[str, Row]:
    """The fold of the whole log, written as simply as possible."""
    rows: dict[str, Row] = {}
    for position, event in enumerate(log, 1):
        if event.name is not None:
            rows[event.key_id] = Row(event.workspace, event.name, True, 1, position)
        else:
            row = rows[event.key_id]
            rows[event.key_id] = row._replace(enabled=event.enabled, version=row.version + 1)
    return rows


class Asked(NamedTuple):
    """A request with an idempotency key, and its outcome."""

    fingerprint: str
    key_id: str
    position: int


class Place(Protocol):
    """A store that can be restarted, copied, and replaced by a copy of itself."""

    store: Redis

    def restart(self) -> None: ...
    def copy(self) -> object: ...
    def put_back(self, copy: Any) -> None: ...


class FakePlace:
    """A store in memory. A restart loses only its scripts."""

    def __init__(self) -> None:
        self.store: Redis = fakeredis.FakeRedis()

    def restart(self) -> None:
        self.store.script_flush()

    def copy(self, *patterns: str) -> dict[bytes, bytes]:
        names = [name for pattern in patterns or ("*",) for name in self.store.scan_iter(pattern)]
        return {name: cast("bytes", self.store.dump(name)) for name in names}

    def put_back(self, copy: dict[bytes, bytes], *patterns: str) -> None:
        for name in self.copy(*patterns):
            self.store.delete(name)
        for name, value in copy.items():
            self.store.restore(name, 0, value)


class RealPlace:
    """An embedded Valkey with its own files: killed without warning, and restarted from them."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedServer.in_directory(directory)
        self._log = directory / "store" / "appendonlydir"
        self._copies = (directory / f"copy-{number}" for number in count(1))
        self.store = connect(self._server.url)
        self._start()

    def restart(self) -> None:
        self.kill()
        self._start()

    def copy(self) -> Path:
        copy = next(self._copies)
        shutil.copytree(self._log, copy)
        return copy

    def put_back(self, copy: Path) -> None:
        self.kill()
        shutil.rmtree(self._log)
        shutil.copytree(copy, self._log)
        self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _start(self) -> None:
        self._process = subprocess.Popen(self._server.command, stdout=subprocess.DEVNULL)
        until(lambda: answers(self._server.url), what="the store's answer")


class AbandonedError(Exception):
    """A rebuild was stopped from outside."""


class Rebuild:
    """A replay that pauses after each page until go_on() is called. Only one thread runs at a time."""

    def __init__(self, ledger: Ledger, views: Views) -> None:
        self.undisturbed = True
        self.over = False
        self.error: Exception | None = None
        self._abandoned = False
        self._go, self._stopped = Semaphore(0), Semaphore(0)
        self._thread = Thread(target=self._run, args=(ledger, views), daemon=True)
        self._thread.start()
        self._wait()

    def go_on(self) -> None:
        """Builds the next page, or finishes."""
        self._go.release()
        self._wait()

    def abandon(self) -> None:
        """Aborts the rebuild after its current page."""
        self._abandoned = True
        self.go_on()

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=60)
        if self.over:
            self._thread.join()

    def _run(self, ledger: Ledger, views: Views) -> None:
        try:
            replay(ledger, views, self._pause)
        except Exception as error:  # noqa: BLE001  # it is looked at in the other thread
            self.error = error
        self.over = True
        self._stopped.release()

    def _pause(self, _done: int, _all: int) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise AbandonedError


class Reading(NamedTuple):
    """What a projector holds between reading a page and saving it."""

    generation: Generation
    checkpoint: Checkpoint
    changes: Changes
    reached: Checkpoint
    store_number: int  # how often the store had been set back


class DyingLedger(Ledger):
    """The ledger of a projector that dies after reading its page."""

    def tail(self, after: int, limit: int, wait_ms: int) -> list[Record]:
        super().tail(after, limit, wait_ms)
        raise StoreIsGoneError


@contextmanager
def _dying(*, written: bool) -> Iterator[None]:
    """Kills a projector at its transaction: before it is sent, or before the reply arrives."""
    execute = Pipeline.execute

    def die(self: Any, *arguments: Any, **options: Any) -> None:
        if written:
            execute(self, *arguments, **options)
        raise StoreIsGoneError

    with patch.object(Pipeline, "execute", die):
        yield


@contextmanager
def _looking_on() -> Iterator[set[str]]:
    """Collects the names of the view keys that are read in the meantime."""
    seen: set[str] = set()
    ask: Any = Redis.execute_command

    def look(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.update(str(word) for word in arguments if str(word).startswith(_VIEWS))
        return ask(self, *arguments, **options)

    with patch.object(Redis, "execute_command", look):
        yield seen


class Keyledger(RuleBasedStateMachine):
    """Everything that can happen to a store of keys, in any order."""

    place: Place
    restarts: ClassVar[int]  # at most, in one history
    readings: Bundle[Reading] = Bundle("readings")

    def __init__(self) -> None:
        super().__init__()
        self.open()
        self.store = self.place.store
        self.ledger, self.views = Ledger(self.store, secret_key=SECRET), Views(self.store)
        self.projectors = [Projector(Ledger(self.store), Views(self.store)) for _ in range(2)]
        ids = (f"event-{number}" for number in count(1))
        self.commands = KeyCommands(self.ledger, "kl", random.Random(3).randrange, ids.__next__, now)
        self.log: list[Happened] = []
        self.asked: dict[str, Asked] = {}
        self.rebuilds: list[Rebuild] = []
        self.copy: tuple[object, list[Happened], dict[str, Asked]] | None = None
        self.restarts_left = self.restarts
        self.times_set_back = 0
        self.seen_position = 0  # of the view, which never goes back by itself

    def open(self) -> None:
        """Opens an empty store."""
        raise NotImplementedError

    def teardown(self) -> None:
        for rebuild in self.rebuilds:
            rebuild.abandon()

    # Commands.

    @initialize(names=st.lists(st.sampled_from("abc"), max_size=3))
    def begin_with_some_keys(self, names: list[str]) -> None:
        for name in names:
            self.create(name, _WORKSPACES[0])

    @rule(name=st.sampled_from("abc"), workspace=st.sampled_from(_WORKSPACES))
    def create(self, name: str, workspace: str) -> None:
        done = self.commands.create(principal(workspace), new_key(name=name), REQUEST)
        self._happened(Happened(done.key.id, workspace, name, True), done.position)
        assert done.api_key is not None

    @rule(number=st.integers(1, 3), fingerprint=st.sampled_from(("this", "that")))
    def create_by_a_request_that_may_be_repeated(self, number: int, fingerprint: str) -> None:
        request = Idempotency(f"request-{number}", fingerprint)
        asked = self.asked.get(request.name)
        if asked is not None and asked.fingerprint != fingerprint:
            with pytest.raises(IdempotencyConflictError):
                self.commands.create(principal("ours"), new_key(name="r"), REQUEST, request)
            return
        done = self.commands.create(principal("ours"), new_key(name="r"), REQUEST, request)
        if asked is not None:
            assert (done.key.id, done.position, done.api_key) == (asked.key_id, asked.position, None)
            # The script checks it too, for a caller that checked before the first one had written.
            assert self.ledger.append("key:other", [], 7, request).positions == (asked.position,)
            return
        self.asked[request.name] = Asked(fingerprint, done.key.id, done.position)
        self._happened(Happened(done.key.id, "ours", "r", True), done.position)

    @precondition(lambda self: self.log)
    @rule(which=st.integers(0, 9), enabled=st.booleans())
    def switch(self, which: int, enabled: bool) -> None:
        key_id, row = self._pick(which)
        done = self.commands.change(principal(row.workspace), key_id, ChangeKey(enabled=enabled), REQUEST)
        if enabled != row.enabled:
            self._happened(Happened(key_id, row.workspace, None, enabled), done.position)
        assert done.key.enabled == enabled

    @precondition(lambda self: self.log)
    @rule(which=st.integers(0, 9), off=st.sampled_from((-2, -1, 1)))
    def command_at_another_version(self, which: int, off: int) -> None:
        key_id, row = self._pick(which)
        toggle = ChangeKey(enabled=not row.enabled)
        with pytest.raises(StaleVersionError):
            self.commands.change(principal(row.workspace), key_id, toggle, REQUEST, {row.version + off})
        with pytest.raises(VersionConflictError):
            self.ledger.append(subject(key_id), [], row.version + off)

    # Projectors.

    @rule(which=st.integers(0, 1))
    def project(self, which: int) -> None:
        with suppress(LeaseTakenError):  # what `run` waits for, if another rebuilds what went backwards
            self.projectors[which].step(wait_ms=1)

    @rule(target=readings)
    def read_a_page(self) -> Any:
        live = self.views.live()
        checkpoint = live.checkpoint()
        records = self.ledger.tail(checkpoint.position, 2, 1)
        if not records:
            return multiple()
        return Reading(
            live, checkpoint, live.changes(read(records)), checkpoint_at(records), self.times_set_back
        )

    @rule(reading=consumes(readings))
    def save_what_was_read(self, reading: Reading) -> None:
        if reading.store_number != self.times_set_back:
            self._save_what_may_be_lost(reading)
            return
        is_next = reading.generation.checkpoint() == reading.checkpoint
        assert reading.generation.save(reading.checkpoint, reading.changes, reading.reached) == is_next

    def _save_what_may_be_lost(self, reading: Reading) -> None:
        """Saves a page read before the store was restored; the projector's next step repairs the view."""
        self.finish_the_rebuilds()
        reading.generation.save(reading.checkpoint, reading.changes, reading.reached)
        self._project_all(0)

    def _project_all(self, which: int) -> None:
        while self.projectors[which].step(wait_ms=1):
            pass
        self.seen_position = 0  # for it may have been the position of what was lost

    @rule(when=st.sampled_from(("when it has read", "before it writes", "when it has written")))
    def a_projector_dies(self, when: str) -> None:
        projector, death = self.projectors[0], cast("AbstractContextManager[None]", nullcontext())
        if when == "when it has read":
            projector = Projector(DyingLedger(self.store), self.views)
        else:
            death = _dying(written=when == "when it has written")
        with suppress(StoreIsGoneError, LeaseTakenError), death:
            projector.step(wait_ms=1)

    # Rebuilds.

    @precondition(lambda self: len(self.rebuilds) < 2)
    @rule()
    def begin_a_rebuild(self) -> None:
        taken = any(self.store.scan_iter(_LEASES))
        rebuild = Rebuild(self.ledger, self.views)
        assert isinstance(rebuild.error, LeaseTakenError) == taken
        rebuild.undisturbed = not self.rebuilds
        self._note(rebuild)

    @precondition(lambda self: self.rebuilds)
    @rule(which=st.integers(0, 1))
    def go_on_with_a_rebuild(self, which: int) -> None:
        rebuild = self.rebuilds.pop(which % len(self.rebuilds))
        rebuild.go_on()
        self._note(rebuild)

    @precondition(lambda self: self.rebuilds)
    @rule(which=st.integers(0, 1))
    def abandon_a_rebuild(self, which: int) -> None:
        rebuild = self.rebuilds.pop(which % len(self.rebuilds))
        rebuild.abandon()
        assert isinstance(rebuild.error, AbandonedError)

    @rule()
    def finish_the_rebuilds(self) -> None:
        while self.rebuilds:
            self.go_on_with_a_rebuild(0)

    @rule()
    def the_lease_of_a_rebuild_runs_out(self) -> None:
        self._end_leases()

    @precondition(lambda self: not self.rebuilds)
    @rule()
    def check_the_views(self) -> None:
        found = check(self.ledger, self.views)
        assert found.equal, found

    # The store.

    @precondition(lambda self: self.restarts_left)
    @rule()
    def restart_the_store(self) -> None:
        self.restarts_left -= 1
        self.place.restart()
        self._disturb()

    @rule()
    def copy_the_store(self) -> None:
        self.copy = (self.place.copy(), [*self.log], {**self.asked})

    @precondition(lambda self: self.restarts_left and self.copy)
    @rule()
    def put_the_older_copy_back(self) -> None:
        assert self.copy
        self.restarts_left -= 1
        copy, log, asked = self.copy
        self.place.put_back(copy)
        self._set_back(log, asked)

    def _set_back(self, log: list[Happened], asked: dict[str, Asked]) -> None:
        self.log, self.asked, self.seen_position = [*log], {**asked}, 0
        self.times_set_back += 1
        # A copy can hold the lease of a rebuild that ended long ago; that lease expires by itself.
        self._end_leases()

    # Invariants.

    @invariant()
    def the_log_is_what_happened_without_a_gap(self) -> None:
        events = [decode(record) for record in self.ledger.read(0, 10_000)]
        assert [event.position for event in events] == list(range(1, len(self.log) + 1))
        assert [event.subject for event in events] == [subject(event.key_id) for event in self.log]
        for key_id in {event.key_id for event in self.log}:
            assert self.ledger.history(subject(key_id)) == [e for e in events if e.subject == subject(key_id)]

    @invariant()
    def the_view_is_the_fold_from_zero(self) -> None:
        live = self.views.live()
        checkpoint = live.checkpoint()
        assert checkpoint.position >= self.seen_position
        self.seen_position = checkpoint.position
        assert self.ledger.holds(checkpoint)
        rows = rows_of(self.log[: checkpoint.position])
        with _looking_on() as seen:
            found = {key_id: self.views.find(key_id)[0] for key_id in {event.key_id for event in self.log}}
            pages = {workspace: self.views.page(workspace, 1_000).keys for workspace in _WORKSPACES}
        assert {key_id: Row.of(key) for key_id, key in found.items() if key} == rows
        for workspace, keys in pages.items():
            there = [key_id for key_id, row in rows.items() if row.workspace == workspace]
            assert [key.id for key in keys] == there[::-1]
            assert keys == [found[key.id] for key in keys]
        for key_id in rows:
            history = self.ledger.history(subject(key_id))
            assert found[key_id] == fold([e for e in history if e.position <= checkpoint.position])
        assert live.parked() == {}
        others = {name for name in seen if f":{live.name}:" not in name and not name.endswith(":live")}
        assert not others, "a generation was read that is not the live one"

    def _happened(self, event: Happened, position: int) -> None:
        self.log.append(event)
        assert position == len(self.log)

    def _pick(self, which: int) -> tuple[str, Row]:
        rows = rows_of(self.log)
        return list(rows.items())[which % len(rows)]

    def _end_leases(self) -> None:
        for name in self.store.scan_iter(_LEASES):
            self.store.delete(name)
        self._disturb()

    def _disturb(self) -> None:
        for rebuild in self.rebuilds:
            rebuild.undisturbed = False

    def _note(self, rebuild: Rebuild) -> None:
        if not rebuild.over:
            self.rebuilds.append(rebuild)
        elif rebuild.error is None:
            left = [*self.store.scan_iter(f"{_VIEWS}*:checkpoint")]
            assert all(f":{self.views.live().name}:".encode() in name for name in left)
        else:
            # An undisturbed rebuild succeeds.
            disturbed = () if rebuild.undisturbed else (RebuildError, RedisError)
            assert isinstance(rebuild.error, (LeaseTakenError, *disturbed)), rebuild.error


@pytest.fixture(autouse=True)
def _short_pages_and_no_readers_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.keys.read_model.projector.PAGE", 3)
    monkeypatch.setattr("services.keys.read_model.rebuild.build._PAGE", 2)
    monkeypatch.setattr("services.keys.read_model.rebuild.build._REPORT_EVERY_S", 0)
    monkeypatch.setattr("services.keys.read_model.rebuild.replay._OLD_GENERATION_S", 0)


def explore(machine: type[Keyledger], examples: int, steps: int) -> None:
    """Tries many histories, the same ones in every run."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


_LEDGER = ("{kl:0}:log", "{kl:0}:subject:*", "{kl:0}:idempotent:*")


class InMemory(Keyledger):
    """On a store in memory, where the ledger can also go backwards without its views."""

    place: FakePlace
    restarts = 100

    def open(self) -> None:
        self.place = FakePlace()
        self.older: tuple[dict[bytes, bytes], list[Happened], dict[str, Asked]] | None = None

    @rule()
    def copy_the_ledger(self) -> None:
        self.older = (self.place.copy(*_LEDGER), [*self.log], {**self.asked})

    @precondition(lambda self: self.older)
    @rule(which=st.integers(0, 1), grown=st.integers(0, 3))
    def put_an_older_ledger_under_the_views(self, which: int, grown: int) -> None:
        assert self.older
        copy, log, asked = self.older
        self.finish_the_rebuilds()
        self.place.put_back(copy, *_LEDGER)
        self._set_back(log, asked)
        for _ in range(grown):
            self.create("g", _WORKSPACES[0])
        self._project_all(which)


@pytest.mark.parametrize("examples", [30, pytest.param(200, marks=pytest.mark.drill)])
def test_any_history_in_memory_gives_views_that_match_the_log(examples: int) -> None:
    explore(InMemory, examples=examples, steps=40)


def test_any_history_with_store_kills_and_restores_gives_views_that_match_the_log(short_tmp: Path) -> None:
    place = RealPlace(short_tmp / "machine")

    class OnValkey(Keyledger):
        restarts = 2

        def open(self) -> None:
            self.place = place
            place.store.flushall()

    try:
        explore(OnValkey, examples=12, steps=30)
    finally:
        place.kill()
        place.store.close()


class Plain:
    """Keys in memory, without a model: for specific histories."""

    def __init__(self) -> None:
        self.place = FakePlace()
        self.store = self.place.store
        self.ledger, self.views = Ledger(self.store, secret_key=SECRET), Views(self.store)
        self.projector = Projector(self.ledger, self.views)
        ids = (f"event-{number}" for number in count(1))
        self.commands = KeyCommands(self.ledger, "kl", random.Random(3).randrange, ids.__next__, now)

    def create(self, *names: str) -> None:
        for name in names:
            self.commands.create(principal("ours"), new_key(name=name), REQUEST)

    def project(self) -> None:
        while self.projector.step(wait_ms=1):
            pass

    def listed(self) -> list[str]:
        return [key.name for key in self.views.page("ours", 100).keys][::-1]

    def lose_lease(self) -> None:
        """Gives the rebuild lease to another process."""
        for name in self.store.scan_iter(_LEASES):
            self.store.set(name, "another")


@pytest.fixture
def plain() -> Plain:
    return Plain()


def test_a_page_read_before_the_ledger_went_backwards_does_not_stay_in_the_views(plain: Plain) -> None:
    plain.create("kept")
    plain.project()
    copy = plain.place.copy()
    plain.create("lost")
    live = plain.views.live()
    checkpoint, records = live.checkpoint(), plain.ledger.tail(1, 10, 1)
    changes = live.changes(read(records))
    plain.place.put_back(copy)
    live.save(checkpoint, changes, checkpoint_at(records))
    plain.create("new", "newer")
    plain.project()
    assert plain.listed() == ["kept", "new", "newer"]


def test_a_ledger_that_went_backwards_and_grew_past_the_views_is_detected(plain: Plain) -> None:
    plain.create("kept")
    copy = plain.place.copy(*_LEDGER)
    plain.create("lost")
    plain.project()
    plain.place.put_back(copy, *_LEDGER)
    plain.create("new", "newer")
    plain.project()
    assert plain.listed() == ["kept", "new", "newer"]


def test_a_rebuild_that_loses_its_lease_fails_and_keeps_the_old_views(plain: Plain) -> None:
    plain.create(*"abcde")
    plain.project()
    old = plain.views.live()
    with pytest.raises(LeaseTakenError):
        replay(plain.ledger, plain.views, lambda _done, _all: plain.lose_lease())
    assert plain.views.live() == old
    assert plain.listed() == [*"abcde"]


def test_a_rebuild_whose_new_views_are_deleted_fails_and_keeps_the_old_ones(plain: Plain) -> None:
    plain.create(*"abcde")
    plain.project()
    old = plain.views.live()

    def remove_once(done: int, _all: int) -> None:
        if done == 2:
            plain.views.delete_all_but(old)

    with pytest.raises(RebuildError):
        replay(plain.ledger, plain.views, remove_once)
    assert plain.views.live() == old
    assert plain.listed() == [*"abcde"]


def test_a_rebuild_whose_views_are_deleted_while_indexing_leaves_nothing_behind(plain: Plain) -> None:
    plain.create(*"abcdefgh")
    plain.project()
    old = plain.views.live()
    at_the_end: list[int] = []

    def remove_once(done: int, all_: int) -> None:
        if done == all_:
            at_the_end.append(done)
        if len(at_the_end) == 2:  # first with the last of the rows, then with the first of the index
            plain.views.delete_all_but(old)

    with pytest.raises(RebuildError):
        replay(plain.ledger, plain.views, remove_once)
    assert all(f":{old.name}:".encode() in name for name in plain.store.scan_iter(f"{_VIEWS}*"))
    assert plain.listed() == [*"abcdefgh"]


def test_a_rebuild_fails_if_the_ledger_goes_backwards_during_it(plain: Plain) -> None:
    plain.create("a")
    copy = plain.place.copy(*_LEDGER)
    plain.create(*"bcde")
    plain.project()
    old = plain.views.live()

    def set_back(done: int, _all: int) -> None:
        if done == 4:
            plain.place.put_back(copy, *_LEDGER)

    with pytest.raises(RebuildError):
        replay(plain.ledger, plain.views, set_back)
    assert plain.views.live() == old
    plain.project()
    assert plain.listed() == ["a"]


def test_a_rebuild_catches_up_before_it_replaces_the_old_views(plain: Plain) -> None:
    plain.create(*"abc")
    plain.project()
    old = plain.views.live()

    def go_ahead(done: int, all_: int) -> None:
        # The last page has been read: new events reach only the old views, which are then ahead.
        if done == all_ and plain.ledger.head().position < 6:
            plain.create("d")
            plain.project()
        assert plain.views.live() == old

    assert replay(plain.ledger, plain.views, go_ahead) == plain.ledger.head().position == 6
    assert plain.listed() == [*"abcddd"]


def test_a_rebuild_cleans_up_after_one_that_was_interrupted_while_deleting(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.keys.read_model.generations._SCAN_PAGE", 1)
    unlink = Redis.unlink
    plain.create(*"abcdefgh")
    for calls in range(12):
        left = iter(range(calls))

        def die(self: Any, *names: Any, left: Iterator[int] = left) -> Any:
            if next(left, None) is None:
                raise StoreIsGoneError
            return unlink(self, *names)

        with patch.object(Redis, "unlink", die), suppress(StoreIsGoneError):
            replay(plain.ledger, plain.views)
        replay(plain.ledger, plain.views)
        live = f":{plain.views.live().name}:".encode()
        others = [name for name in plain.store.scan_iter(f"{_VIEWS}*") if live not in name]
        assert others == [f"{_VIEWS}{VERSION}:live".encode()], f"after {calls} calls"


def test_a_rebuild_that_loses_its_lease_at_the_end_never_shows_deleted_views(plain: Plain) -> None:
    plain.create(*"abcde")
    plain.project()
    old = plain.views.live()

    def remove_half(done: int, _all: int) -> None:
        # The new holder deletes what it finds, one page of names at a time: the checkpoint may be last.
        if done == 5:
            plain.lose_lease()
            for name in plain.store.scan_iter(f"{_VIEWS}*:key:*"):
                if f":{old.name}:".encode() not in name:
                    plain.store.delete(name)

    with suppress(LeaseTakenError):
        replay(plain.ledger, plain.views, remove_half)
    assert plain.listed() == [*"abcde"]


def test_a_projector_keeps_retrying_a_failed_rebuild(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.create("kept")
    plain.store.xadd(LOG, {"at": 1, "event": b"not an event"}, id="0-*")
    copy = plain.place.copy(*_LEDGER)
    plain.create("lost")
    plain.project()
    plain.place.put_back(copy, *_LEDGER)
    tries: list[int] = []

    def counted(ledger: Ledger, views: Views) -> int:
        tries.append(1)
        return replay(ledger, views)

    monkeypatch.setattr("services.keys.read_model.projector.replay", counted)
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(plain.projector.run, stop)
        until(lambda: running.done() or len(tries) > 1, what="another try")
        stop.set()
        running.result(60)


def test_a_check_whose_hold_expires_does_not_report_correct_views_as_wrong(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.create("one")
    plain.project()
    entries = Generation.entries

    def slowly(self: Generation) -> Any:
        for name in plain.store.scan_iter(f"{_VIEWS}*:hold"):
            plain.store.delete(name)  # it ran out: there are very many rows
            plain.create("two")
            plain.project()
        return entries(self)

    monkeypatch.setattr(Generation, "entries", slowly)
    with suppress(RebuildError):
        assert check(plain.ledger, plain.views).equal
