"""Commands on API keys."""

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.terminal import json_option, opened, operator, request, workspace_option
from services.keys.commands import Done
from services.keys.domain import GRACE_SECONDS_MOST, ChangeKey
from services.keys.schemas import KeyChangeSchema, KeySchema, NewKeySchema, RevocationSchema, presented
from services.parts import now_ms
from services.parts.keys import KeyParts
from shared.timestamps import date_utc


@click.group("key")
def key_command() -> None:
    """Create, list and switch API keys."""


@key_command.command("create")
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope that the key holds; may be repeated.")
@workspace_option
@json_option
def create_key(name: str, description: str, scopes: tuple[str, ...], workspace: str, as_json: bool) -> None:
    """Create a key, and print it: this once and never again."""
    new = NewKeySchema().load({"name": name, "description": description, "scopes": list(scopes)})
    with opened(KeyParts) as parts:
        done = parts.keys.commands.create(operator(workspace), new, request())
    _print_once(done, as_json)


@key_command.command("list")
@workspace_option
@json_option
def list_keys(workspace: str, as_json: bool) -> None:
    """List the keys, newest first."""
    principal, keys, cursor = operator(workspace), [], None
    with opened(KeyParts) as parts:
        parts.projector.catch_up()
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


@key_command.command("enable")
@click.argument("key_id")
@workspace_option
@json_option
def enable_key(key_id: str, workspace: str, as_json: bool) -> None:
    """Switch a key on."""
    _change(key_id, ChangeKey(enabled=True), workspace, as_json)


@key_command.command("disable")
@click.argument("key_id")
@click.option("--reason", help="Why; it stays in the key's history.")
@workspace_option
@json_option
def disable_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """Switch a key off."""
    command = KeyChangeSchema().load({"enabled": False, "reason": reason})
    _change(key_id, command, workspace, as_json)


@key_command.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.IntRange(0, GRACE_SECONDS_MOST),
    default=0,
    show_default=True,
    help="For how many seconds the old secret stays good.",
)
@workspace_option
@json_option
def rotate_key(key_id: str, grace_seconds: int, workspace: str, as_json: bool) -> None:
    """Give a key a new secret, and print it: this once and never again."""
    with opened(KeyParts) as parts:
        done = parts.keys.commands.rotate(operator(workspace), key_id, grace_seconds, request())
    _print_once(done, as_json)


@key_command.command("revoke")
@click.argument("key_id")
@click.option("--reason", help="Why; it stays in the key's history.")
@workspace_option
@json_option
def revoke_key(key_id: str, reason: str | None, workspace: str, as_json: bool) -> None:
    """End a key for good."""
    reason = RevocationSchema().load({"reason": reason})["reason"]
    with opened(KeyParts) as parts:
        done = parts.keys.commands.revoke(operator(workspace), key_id, reason, request())
    _print_state(done, as_json)


def _change(key_id: str, command: ChangeKey, workspace: str, as_json: bool) -> None:
    with opened(KeyParts) as parts:
        done = parts.keys.commands.change(operator(workspace), key_id, command, request())
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
