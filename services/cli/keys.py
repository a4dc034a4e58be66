"""Commands on API keys."""

import json

import click
from rich.table import Table
from rich.text import Text

from services.cli.terminal import json_option, opened_workspace, operator, request, workspace_option
from services.keys.commands import CommandResult
from services.keys.components import KeyComponents
from services.keys.model.key import MAX_GRACE_SECONDS, ChangeKey
from services.keys.web.schemas import KeyChangeSchema, KeySchema, NewKeySchema, RevocationSchema, presented
from services.runtime.output import echo, ensure_writable, note, print_table, tell_once
from shared.clock import date_utc, now_ms
from shared.process.telemetry import escaped


@click.group("key")
def key_command() -> None:
    """Manage API keys."""


@key_command.command("create")
@click.argument("name")
@click.option("--description", default="", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope to grant. Repeat it for more.")
@workspace_option
@json_option
def create_key(name: str, description: str, scopes: tuple[str, ...], workspace: str, as_json: bool) -> None:
    """Create a key and print it. It is shown only once."""
    new = NewKeySchema().load({"name": name, "description": description, "scopes": list(scopes)})
    ensure_writable()
    with opened_workspace(workspace) as components:
        done = components.of(KeyComponents).keys.commands.create(operator(workspace), new, request())
    _print_once(done, as_json, "created")


@key_command.command("list")
@workspace_option
@json_option
def list_keys(workspace: str, as_json: bool) -> None:
    """List the keys, newest first."""
    principal, keys, cursor = operator(workspace), [], None
    with opened_workspace(workspace) as components:
        own = components.of(KeyComponents)
        own.projector.catch_up()
        while True:
            page = own.keys.page(principal, 200, cursor)
            keys += page.keys
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        echo(json.dumps({"keys": KeySchema(many=True).dump(map(presented, keys))}))
        return
    table = Table("ID", "Name", "API Key", "Date Created", "Status")
    for found in keys:
        table.add_row(
            found.id,
            Text(escaped(found.name)),
            found.hint,
            date_utc(found.created_at),
            found.status(now_ms()).capitalize(),
        )
    if keys:
        print_table(table)
    else:
        echo("No API keys Found!")


@key_command.command("enable")
@click.argument("key_id")
@workspace_option
@json_option
def enable_key(key_id: str, workspace: str, as_json: bool) -> None:
    """Enable a key."""
    _change(key_id, ChangeKey(enabled=True), workspace, as_json)


@key_command.command("disable")
@click.argument("key_id")
@click.option("--reason", help="The reason, which is kept in the key's history.")
@workspace_option
@json_option
def disable_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """Disable a key."""
    command = KeyChangeSchema().load({"enabled": False, "reason": reason})
    _change(key_id, command, workspace, as_json)


@key_command.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.IntRange(0, MAX_GRACE_SECONDS),
    default=0,
    show_default=True,
    help="How many seconds the old secret keeps working.",
)
@workspace_option
@json_option
def rotate_key(key_id: str, grace_seconds: int, workspace: str, as_json: bool) -> None:
    """Give a key a new secret and print it. It is shown only once."""
    ensure_writable()
    with opened_workspace(workspace) as components:
        done = components.of(KeyComponents).keys.commands.rotate(
            operator(workspace), key_id, grace_seconds, request()
        )
    _print_once(done, as_json, "rotated")


@key_command.command("revoke")
@click.argument("key_id")
@click.option("--reason", help="The reason, which is kept in the key's history.")
@workspace_option
@json_option
def revoke_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """Revoke a key permanently."""
    reason = RevocationSchema().load({"reason": reason})["reason"]
    with opened_workspace(workspace) as components:
        done = components.of(KeyComponents).keys.commands.revoke(
            operator(workspace), key_id, reason, request()
        )
    _print_state(done, as_json)


def _change(key_id: str, command: ChangeKey, workspace: str, as_json: bool) -> None:
    with opened_workspace(workspace) as components:
        done = components.of(KeyComponents).keys.commands.change(
            operator(workspace), key_id, command, request()
        )
    _print_state(done, as_json)


def _print_once(done: CommandResult, as_json: bool, what: str) -> None:
    token = done.api_key.reveal() if done.api_key else ""
    text = json.dumps(KeySchema().dump(presented(done.key)) | {"api_key": token}) if as_json else token
    key_id = done.key.id
    tell_once(
        text,
        f"Key {key_id} was {what}, but its secret is lost: rotate it with `keyledger key rotate {key_id}`.",
    )
    if not as_json:
        note(f"The key of {done.key.name!r} is shown only this once.")


def _print_state(done: CommandResult, as_json: bool) -> None:
    state = "revoked" if done.key.revoked else "enabled" if done.key.enabled else "disabled"
    line = f"{escaped(done.key.name)} ({done.key.hint}) is {state}."
    tell_once(json.dumps(KeySchema().dump(presented(done.key))) if as_json else line, f"Done: {line}")
