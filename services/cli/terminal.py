"""What the commands share: the components, the operator, options, and progress."""

import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Stop
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.errors import UserFacingError
from shared.eventstore.envelope import Request
from shared.eventstore.subscription import Lag
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
from shared.service.components import Container, SharedComponents, new_id
from shared.service.manifest import Manifest
from shared.settings import Settings
from shared.store.connections import ensure_usable
from shared.store.embedded import ensure_made, open_store
from shared.text.key_detection import without_keys


class UnknownWorkspaceError(UserFacingError):
    """No account was ever added to the workspace that a command names."""


def _named_workspace(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not is_workspace_name(name):
        raise click.BadParameter(
            f"{without_keys(name)!r} isn't a valid workspace name. Use {WORKSPACE_RULE}."
        )
    return name


workspace_option = click.option(
    "--workspace", default=DEFAULT_WORKSPACE, show_default=True, callback=_named_workspace, help="Workspace."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Output JSON.")


@contextmanager
def opened(*, creates: bool = False) -> Iterator[Container]:
    """The components on the store that the settings name; an embedded store runs meanwhile.

    `creates`: the command creates a Keyledger in a data directory that has none.
    """
    settings = Settings.from_environment()
    if not creates:
        ensure_made(settings)
    with open_store(settings) as url:
        components = Container(SharedComponents(settings, url))
        ensure_usable(components.shared.store)
        yield components


@contextmanager
def opened_workspace(workspace: str) -> Iterator[Container]:
    """The same, if the workspace exists: a mistyped name would otherwise create one."""
    from services.accounts.components import (
        AccountComponents,  # which the projector and the worker don't need
    )

    with opened() as components:
        accounts = components.of(AccountComponents).account_list
        if workspace != DEFAULT_WORKSPACE and not accounts.page(operator(workspace), 1).rows:
            raise UnknownWorkspaceError(
                f"There is no workspace {workspace!r}: check the name, or create it: `keyledger account add`."
            )
        yield components


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """Shows a bar with the rate and the time left, if standard error is a terminal."""
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
    """Describes how far a reader of the ledger is, in one line."""
    return f"position {position} of {lag.head}, {lag.events} events and {lag.ms / 1000:.3f} s behind"


def lag_facts(position: int, lag: Lag) -> dict[str, Any]:
    """The same as JSON fields."""
    return {"position": position, "head": lag.head, "lag_events": lag.events, "lag_seconds": lag.ms / 1000}


def exit_status(lag: Lag, *, in_step: bool) -> int:
    """Returns 1 if a reader of the ledger needs attention, and 0 if not."""
    return 0 if in_step and not lag.is_long else 1


def monitor(components: Container, manifest: Manifest) -> None:
    """Starts the logs and metrics of a long-running process of a service. Raises AddressError."""
    # Imported late: a web process must set PROMETHEUS_MULTIPROC_DIR before prometheus-client is imported.
    from services.runtime.metrics import serve_metrics

    serve_metrics(components, manifest, configure_logs())


def until_stopped() -> Stop:
    """Returns an event that is set by SIGTERM or Ctrl-C."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: set_by_signal(stop))
    return stop


def operator(workspace: str) -> Principal:
    """Returns the principal of a command: anyone who can run one on this machine may do everything."""
    name = _user()
    scopes = frozenset({ADMIN, PLATFORM_VERIFY})
    return Principal(
        kind="operator", id=name, label=f"{name} (command line)", workspace=workspace, scopes=scopes
    )


def _user() -> str:
    """Returns the system user's name; an environment variable could be forged."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def request() -> Request:
    """Returns what events record of a command."""
    return Request(id=new_id(), ip=None, user_agent=None)
