"""What a service adds to Keyledger: one manifest, from which the runtime builds everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event as Stop
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shared.service.checks import Check
    from shared.service.components import Container
    from shared.service.metrics import Metrics
    from shared.web.registration import Web


class Program(NamedTuple):
    """A process of its own, which `keyledger up` runs as `keyledger` with these words."""

    name: str
    command: Sequence[str]


class NavigationItem(NamedTuple):
    """A link in the dashboard's menu, for accounts that hold the scope."""

    endpoint: str
    icon: str
    label: str
    scope: str


class Background(NamedTuple):
    """A thread of each web process, and what to call once more when the process ends."""

    run: Callable[[Stop], None]
    finish: Callable[[], object] | None = None


def _no_background(_: Container) -> Sequence[Background]:
    return ()


def _no_web(_: Web) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The commands, processes, checks, metrics and pages of a service.

    A manifest imports nothing of its service before a field is called, so that a process loads only what it
    uses: a projector needs no SQL database, and a worker no Flask.
    """

    name: str
    # By the command's name, the module that has it as `<name>_command`, a click command.
    commands: Mapping[str, str] = field(default_factory=dict)
    programs: Sequence[Program] = ()
    checks: Callable[[], Sequence[Check]] = tuple
    metrics: Callable[[], Sequence[Metrics]] = tuple
    background: Callable[[Container], Sequence[Background]] = _no_background
    web: Callable[[Web], None] = _no_web
    navigation: Sequence[NavigationItem] = ()
