"""What the commands have in common: the parts, who runs them, options, and progress."""

import getpass
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Stop
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.parts import StoreParts, new_id
from shared.connections import ensure_usable
from shared.embedded import open_store
from shared.events import Request
from shared.identity import (
    ADMIN,
    DEFAULT_WORKSPACE,
    PLATFORM_VERIFY,
    WORKSPACE_RULE,
    Principal,
    is_workspace_name,
)
from shared.lag import Lag
from shared.settings import Settings
from shared.stopping import set_by_signal
from shared.telemetry import configure_logs
from shared.tokens import without_keys

P = TypeVar("P", bound=StoreParts)


def _named_workspace(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not is_workspace_name(name):
        raise click.BadParameter(
            f"{without_keys(name)!r} is no name of a workspace: it may have {WORKSPACE_RULE}."
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
def opened(kind: type[P]) -> Iterator[P]:
    """Parts on the store that the settings name; an embedded one runs meanwhile."""
    settings = Settings.from_environment()
    with open_store(settings) as url:
        parts = kind(settings, url)
        ensure_usable(parts.store)
        yield parts


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
    """Whoever can run commands on this machine may do everything."""
    name = getpass.getuser()
    scopes = frozenset({ADMIN, PLATFORM_VERIFY})
    return Principal(
        kind="operator", id=name, label=f"{name} (command line)", workspace=workspace, scopes=scopes
    )


def request() -> Request:
    """What the events tell of a command."""
    return Request(id=new_id(), ip=None, user_agent=None)
