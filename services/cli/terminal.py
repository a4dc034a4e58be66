"""What the commands have in common: the parts, who runs them, options, and progress."""

import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Stop
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.accounts.manifest import AccountComponents
from shared.components import StoreComponents, new_id
from shared.errors import UserFacingError
from shared.eventstore.events import Request
from shared.eventstore.lag import Lag
from shared.identity import (
    ADMIN,
    DEFAULT_WORKSPACE,
    PLATFORM_VERIFY,
    WORKSPACE_RULE,
    Principal,
    is_workspace_name,
)
from shared.process.signals import set_by_signal
from shared.process.telemetry import configure_logs
from shared.settings import Settings
from shared.store.connections import ensure_usable
from shared.store.embedded import ensure_made, open_store
from shared.text.key_detection import without_keys

P = TypeVar("P", bound=StoreComponents)
W = TypeVar("W", bound=AccountComponents)


class UnknownWorkspaceError(UserFacingError):
    """Nobody was ever added to the workspace that a command names."""


def _named_workspace(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not is_workspace_name(name):
        raise click.BadParameter(
            f"{without_keys(name)!r} isn't a valid workspace name. Use {WORKSPACE_RULE}."
        )
    return name


workspace_option = click.option(
    "--workspace",
    default=DEFAULT_WORKSPACE,
    show_default=True,
    callback=_named_workspace,
    help="Whose keys or people they are.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for another program.")


@contextmanager
def opened(kind: type[P], *, makes: bool = False) -> Iterator[P]:
    """Container on the store that the settings name; an embedded one runs meanwhile.

    `makes`: in a data directory without a Keyledger the command makes one.
    """
    settings = Settings.from_environment()
    if not makes:
        ensure_made(settings)
    with open_store(settings) as url:
        components = kind(settings, url)
        ensure_usable(components.store)
        yield components


@contextmanager
def opened_workspace(kind: type[W], workspace: str) -> Iterator[W]:
    """The same of a workspace that is known: of one that is mistyped there would be a second."""
    with opened(kind) as components:
        if workspace != DEFAULT_WORKSPACE and not components.directory.page(operator(workspace), 1).people:
            raise UnknownWorkspaceError(
                f"There is no workspace {workspace!r}: check the name, or create it: `keyledger account add`."
            )
        yield components


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with rate and time left; nothing where standard error is no terminal."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None, rate="-")

        def advance(done: int, total: int) -> None:
            speed = progress.tasks[task].speed or 0
            progress.update(task, completed=done, total=total, rate=f"{speed:,.0f} events")

        yield advance


def lag_words(position: int, lag: Lag) -> str:
    """How far a reader of the ledger is, in a line."""
    return f"position {position} of {lag.head}, {lag.events} events and {lag.ms / 1000:.3f} s behind"


def lag_facts(position: int, lag: Lag) -> dict[str, Any]:
    """The same for another program."""
    return {
        "position": position,
        "head": lag.head,
        "lag_events": lag.events,
        "lag_seconds": lag.ms / 1000,
    }


def exit_status(lag: Lag, *, in_step: bool) -> int:
    """The exit status by which other programs see whether somebody has to look after a reader."""
    return 0 if in_step and not lag.is_long else 1


def until_stopped() -> Stop:
    """For a process that goes on until then: what is set by SIGTERM or Ctrl-C. It also tells what it does."""
    configure_logs()
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: set_by_signal(stop))
    return stop


def operator(workspace: str) -> Principal:
    """Anyone who can run commands on this machine can do everything."""
    name = _user()
    scopes = frozenset({ADMIN, PLATFORM_VERIFY})
    return Principal(
        kind="operator", id=name, label=f"{name} (command line)", workspace=workspace, scopes=scopes
    )


def _user() -> str:
    """By the system's own list of users: a variable of the environment may say anything."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def request() -> Request:
    """What the events tell of a command."""
    return Request(id=new_id(), ip=None, user_agent=None)
