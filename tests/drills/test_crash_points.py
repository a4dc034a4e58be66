"""A command, the projector and a rebuild are killed before and after each call, and restarted."""

from typing import Any

import pytest

from services.keys.read_model.generations import ROOT
from services.keys.read_model.rebuild.lease import LEASE
from services.keys.read_model.rebuild.replay import replay
from shared.eventstore.codec import decode
from tests.support.crash_points import World, at_each_point
from tests.support.crashes import Ending, append

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("quiet", "small_pages"),
]


def test_a_killed_append_takes_effect_exactly_once_when_retried(world: World) -> None:
    def recover(ending: Ending) -> None:
        events = [decode(record) for record in world.ledger.read(0, 100)]
        there = [f"{event.position} {event.subject.removeprefix('key:')}" for event in events[5:]]
        # An event may exist although the killed process didn't get the acknowledgement.
        assert there[: len(ending.acknowledged)] == ending.acknowledged
        assert len(there) <= len(ending.acknowledged) + 1
        told: list[str] = []
        append(world.place, told.append)
        assert told[0] == (there or told)[0]
        created = [event for event in map(decode, world.ledger.read(5, 100)) if event.type == "KeyCreated"]
        assert len(created) == 1

    at_each_point(world, "append", world.populate, recover)


def test_a_killed_projection_counts_each_event_once(world: World) -> None:
    at_each_point(world, "project", world.populate, lambda _: None)


def test_a_killed_rebuild_is_never_visible_and_can_be_run_again(world: World) -> None:
    def prepare() -> None:
        world.populate()
        world.run("project")

    def recover(_: Ending) -> None:
        assert world.listed() == world.folded()
        world.store.delete(LEASE)  # it would expire some seconds later
        replay(world.ledger, world.views)
        live = world.views.live()
        found: Any = world.store.keys(f"{ROOT}*")
        names = {name.decode().removeprefix(ROOT) for name in found}
        assert {name.split(":")[0] for name in names} - {"live"} == {live.name}

    at_each_point(world, "rebuild", prepare, recover)
