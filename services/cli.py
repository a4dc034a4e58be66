"""The `keyledger` command: the composition root, one sub-command per process or task."""

import getpass
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Stop
from typing import Any

import click
from marshmallow import ValidationError
from redis import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from services.accounts.domain import AccountExistsError, InvalidFieldError
from services.audit.database import AuditDatabaseError
from services.audit.integrity import check as check_audit_log
from services.audit.worker import run_worker
from services.composition import Parts, new_id, now_ms, secret_key
from services.keys.commands import Done, NoSuchKeyError
from services.keys.domain import GRACE_SECONDS_MOST, ChangeKey, RefusedError
from services.keys.operations import retry, status
from services.keys.rebuild import RebuildError, check, replay
from services.keys.schemas import KeySchema, NewKeySchema, RevocationSchema, presented
from services.keys.views import LeaseTakenError
from services.moving import MovingError, export_file, import_file
from services.supervisor import NotReadyError
from services.up import DEFAULT_WORKSPACE, run_everything
from services.web import AddressError, refuse_taken_address, serve
from shared.connections import StoreError, ensure_reachable
from shared.embedded import open_store
from shared.events import Request
from shared.identity import (
    ADMIN,
    PLATFORM_VERIFY,
    ROLES,
    WORKSPACE_RULE,
    Principal,
    is_workspace_name,
)
from shared.settings import Settings, SettingsError
from shared.telemetry import configure_logs
from shared.timestamps import date_utc
from shared.web.problems import field_errors

# What a person can do something about: told in one line, without a traceback.
_TOLD = (
    AccountExistsError,
    AddressError,
    AuditDatabaseError,
    InvalidFieldError,
    MovingError,
    NotReadyError,
    RebuildError,
    RefusedError,
    SettingsError,
    StoreError,
)


def _named_workspace(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not is_workspace_name(name):
        raise click.BadParameter(f"{name!r} is no name of a workspace: it may have {WORKSPACE_RULE}.")
    return name


_workspace = click.option(
    "--workspace",
    default=DEFAULT_WORKSPACE,
    show_default=True,
    callback=_named_workspace,
    help="Whose keys or people they are.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for another program.")


class _Keyledger(click.Group):
    """Tells errors in one line, with what to do next."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except _TOLD as error:
            raise click.ClickException(str(error)) from error
        except ValidationError as error:
            rows = field_errors(error.messages)
            raise click.ClickException(
                " ".join(f"{row['field']}: {row['message']}" for row in rows)
            ) from error
        except NoSuchKeyError as error:
            raise click.ClickException(
                f"There is no key {error} in this workspace; `keyledger key list` shows those that there are."
            ) from error
        except LeaseTakenError as error:
            raise click.ClickException(
                "Another replay is running, or was killed a moment ago: try again in 15 seconds."
            ) from error
        except RedisError as error:
            raise click.ClickException(f"The store went away ({error}): try again.") from error


@click.group(cls=_Keyledger)
def main() -> None:
    """An API-key service whose truth is a ledger of events."""
    configure_logs()


@main.command()
def up() -> None:
    """Start everything: the embedded store, the web, the projector, the audit relay and worker."""
    run_everything(Settings.from_environment())


@main.command()
def web() -> None:
    """Serve all pages and calls."""
    _serve("create_web")


@main.group(invoke_without_command=True)
@click.pass_context
def projector(context: click.Context) -> None:
    """Build the key list and key details from the ledger; or ask how far that is."""
    if context.invoked_subcommand is None:
        with _parts() as parts:
            parts.projector.run(_stop_on_signal())


@projector.command("status")
@_as_json
def projector_status(as_json: bool) -> None:
    """Say how far the views are behind the ledger, and which keys are parked."""
    with _parts() as parts:
        found = status(parts.ledger, parts.views, now_ms())
    if as_json:
        facts = {"position": found.position, "head": found.head, "lag_events": found.lag}
        click.echo(json.dumps(facts | {"lag_seconds": found.lag_ms / 1000, "parked": found.parked}))
        return
    lag = f"{found.lag} events and {found.lag_ms / 1000:.3f} s behind"
    click.echo(f"position {found.position} of {found.head}, {lag}")
    for key_id, reason in found.parked.items():
        click.echo(f"parked {key_id}: {reason}")


@projector.command("retry")
def projector_retry() -> None:
    """Take parked keys up again, with the code that runs now."""
    with _parts() as parts:
        outcomes = retry(parts.ledger, parts.views)
    for key_id, reason in outcomes.items():
        click.echo(f"{key_id} is still parked: {reason}" if reason else f"{key_id} is in the views again")
    if not outcomes:
        click.echo("No key is parked.")
    sys.exit(1 if any(outcomes.values()) else 0)


@main.command("replay")
@click.option("--check", "only_check", is_flag=True, help="Only compare the views with a rebuilt copy.")
def replay_command(only_check: bool) -> None:
    """Build the views anew from the ledger, and put them in the place of the old ones."""
    with _parts() as parts:
        if only_check:
            _check(parts)
            return
        with _progress("replaying") as advance:
            position = replay(parts.ledger, parts.views, advance)
        click.echo(f"The views are rebuilt to position {position} and live.")


def _check(parts: Parts) -> None:
    _catch_up(parts)
    with _progress("checking") as advance:
        found = check(parts.ledger, parts.views, advance)
    click.echo(f"position  {found.position}\nlive      {found.live_digest}\nrebuilt   {found.copy_digest}")
    if found.equal:
        click.echo("equal")
        return
    click.echo("DIFFERENT: " + ", ".join(found.differing))
    click.echo("`keyledger replay` builds the views anew.")
    sys.exit(1)


@main.command("export")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def export_command(file: Path | None) -> None:
    """Write the ledger to FILE, or to standard output, as CloudEvents: one a line, then a trailer."""
    with _parts() as parts, _progress("exporting") as advance:
        count = export_file(parts.ledger, file, advance)
    click.echo(f"Exported {count:,} events. No password is among them.", err=True)


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_command(file: Path) -> None:
    """Fill an empty ledger from FILE, which an export wrote; a file that is not whole writes nothing."""
    with _parts() as parts, _progress("importing") as advance:
        count = import_file(parts.ledger, file, advance)
    click.echo(f"Imported {count:,} events. The views and the audit log follow while Keyledger runs.")
    click.echo("Keys work as before. Passwords stayed behind: let people in by `keyledger account add`.")


@main.group()
def key() -> None:
    """Create, list and switch API keys."""


@key.command("create")
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope that the key holds; may be repeated.")
@_workspace
@_as_json
def create_key(name: str, description: str, scopes: tuple[str, ...], workspace: str, as_json: bool) -> None:
    """Create a key, and print it: this once and never again."""
    new = NewKeySchema().load({"name": name, "description": description, "scopes": list(scopes)})
    with _parts() as parts:
        done = parts.keys.commands.create(_operator(workspace), new, _request())
    _print_once(done, as_json)


@key.command("list")
@_workspace
@_as_json
def list_keys(workspace: str, as_json: bool) -> None:
    """List the keys, newest first."""
    principal, keys, cursor = _operator(workspace), [], None
    with _parts() as parts:
        _catch_up(parts)
        while True:
            page = parts.keys.page(principal, 200, cursor)
            keys += page.keys
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        click.echo(json.dumps({"keys": KeySchema(many=True).dump(map(presented, keys))}, ensure_ascii=False))
        return
    table = Table("ID", "Name", "API Key", "Date Created", "Status")
    for found in keys:
        table.add_row(
            found.id,
            Text(found.name),
            found.hint,
            date_utc(found.created_at),
            found.status(now_ms()).capitalize(),
        )
    Console().print(table if keys else "No API keys Found!")


@key.command("enable")
@click.argument("key_id")
@_workspace
@_as_json
def enable_key(key_id: str, workspace: str, as_json: bool) -> None:
    """Switch a key on."""
    _change(key_id, ChangeKey(enabled=True), workspace, as_json)


@key.command("disable")
@click.argument("key_id")
@click.option("--reason", help="Why; it stays in the key's history.")
@_workspace
@_as_json
def disable_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """Switch a key off."""
    _change(key_id, ChangeKey(enabled=False, reason=reason), workspace, as_json)


@key.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.IntRange(0, GRACE_SECONDS_MOST),
    default=0,
    show_default=True,
    help="For how many seconds the old secret stays good.",
)
@_workspace
@_as_json
def rotate_key(key_id: str, grace_seconds: int, workspace: str, as_json: bool) -> None:
    """Give a key a new secret, and print it: this once and never again."""
    with _parts() as parts:
        done = parts.keys.commands.rotate(_operator(workspace), key_id, grace_seconds, _request())
    _print_once(done, as_json)


@key.command("revoke")
@click.argument("key_id")
@click.option("--reason", help="Why; it stays in the key's history.")
@_workspace
@_as_json
def revoke_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """End a key for good."""
    reason = RevocationSchema().load({"reason": reason})["reason"]
    with _parts() as parts:
        done = parts.keys.commands.revoke(_operator(workspace), key_id, reason, _request())
    _print_state(done, as_json)


def _change(key_id: str, command: ChangeKey, workspace: str, as_json: bool) -> None:
    with _parts() as parts:
        done = parts.keys.commands.change(_operator(workspace), key_id, command, _request())
    _print_state(done, as_json)


def _print_once(done: Done, as_json: bool) -> None:
    token = done.api_key.reveal() if done.api_key else ""
    if as_json:
        click.echo(json.dumps(KeySchema().dump(presented(done.key)) | {"api_key": token}, ensure_ascii=False))
        return
    click.echo(token)
    click.echo(f"This is the only time that the key of {done.key.name!r} is shown.", err=True)


def _print_state(done: Done, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(KeySchema().dump(presented(done.key)), ensure_ascii=False))
        return
    state = "revoked" if done.key.revoked else "on" if done.key.enabled else "off"
    click.echo(f"{done.key.name} ({done.key.hint}) is {state}.")


@main.group()
def account() -> None:
    """The people who may sign in."""


@account.command("add")
@click.argument("email")
@click.option("--role", type=click.Choice(list(ROLES)), required=True)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_workspace
@_as_json
def add_account(email: str, role: str, password_stdin: bool, workspace: str, as_json: bool) -> None:
    """Let a person sign in."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    with _parts() as parts:
        added = parts.accounts.add(_operator(workspace), email, role, password, _request())
    address = added.subject.removeprefix("account:")
    if as_json:
        click.echo(json.dumps({"email": address, "role": role, "workspace": workspace}, ensure_ascii=False))
    else:
        click.echo(f"{address} may sign in to workspace {workspace} as {role}.")


@main.group()
def audit() -> None:
    """The audit log's processes, and its check."""


@audit.command("relay")
def audit_relay() -> None:
    """Tell the audit worker of new events."""
    with _parts() as parts:
        parts.relay.run(_stop_on_signal())


@audit.command("worker")
def audit_worker() -> None:
    """Write the audit log."""
    with _parts() as parts:
        run_worker(parts.waiting_store, parts.audit_log, parts.ledger)


@audit.command("check")
def audit_check() -> None:
    """Go through the audit log: its chain, its entries, and the ledger's events beside them."""
    with _parts() as parts, _progress("checking") as advance:
        found = check_audit_log(parts.audit_log, parts.ledger, advance)
    click.echo(f"{found.entries} entries, {found.behind} events not yet in the log")
    for finding in found.findings:
        click.echo(
            f"{finding.kind} ({found.counts[finding.kind]}), first at {finding.position}: {finding.detail}"
        )
    click.echo("the audit log is sound" if found.ok else "THE AUDIT LOG IS NOT SOUND")
    sys.exit(0 if found.ok else 1)


@audit.command("web")
def audit_web() -> None:
    """Serve the audit pages and calls alone."""
    _serve("create_audit_web")


def _serve(factory: str) -> None:
    settings = Settings.from_environment()
    refuse_taken_address(settings)
    with _parts() as parts:
        serve(settings, parts.store_url, secret_key(settings), factory)


@contextmanager
def _parts() -> Iterator[Parts]:
    """The parts on the store that the settings name; an embedded one runs meanwhile."""
    settings = Settings.from_environment()
    with open_store(settings) as url:
        parts = Parts(settings, url)
        ensure_reachable(parts.store)
        yield parts


def _catch_up(parts: Parts) -> None:
    """Brings the views up to date where no projector runs; where one does, they share the work."""
    while parts.projector.step(wait_ms=1):
        pass


@contextmanager
def _progress(what: str) -> Iterator[Any]:
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


def _stop_on_signal() -> Stop:
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _operator(workspace: str) -> Principal:
    """Whoever can run commands on this machine may do everything."""
    name = getpass.getuser()
    scopes = frozenset({ADMIN, PLATFORM_VERIFY})
    return Principal(
        kind="operator", id=name, label=f"{name} (command line)", workspace=workspace, scopes=scopes
    )


def _request() -> Request:
    return Request(id=new_id(), ip=None, user_agent=None)


if __name__ == "__main__":
    main()
