"""Commands on accounts."""

import json
import sys

import click
from rich.table import Table
from rich.text import Text

from services.accounts.components import AccountComponents
from services.accounts.model.account import Account
from services.accounts.passwords import new_password
from services.accounts.read_model.projection import AccountRow
from services.accounts.web.schemas import ReasonSchema
from services.cli.terminal import json_option, opened, opened_workspace, operator, request, workspace_option
from services.runtime.output import echo, ensure_writable, note, print_table, report, tell_once
from shared.clock import date_utc, rfc3339
from shared.identity import ROLES
from shared.process.telemetry import escaped
from shared.service.components import Container

_PAGE = 200
_role = click.Choice(list(ROLES))
_password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)


@click.group("account")
def account_command() -> None:
    """Manage accounts."""


@account_command.command("add")
@click.argument("email")
@click.option("--role", type=_role, required=True)
@_password_stdin
@workspace_option
@json_option
def add_account(email: str, role: str, password_stdin: bool, workspace: str, as_json: bool) -> None:
    """Add an account."""
    password = _read_password() if password_stdin else _asked_password()
    with opened() as components:
        added = components.of(AccountComponents).accounts.add(
            operator(workspace), email, role, password, request()
        )
    address = added.subject.removeprefix("account:")
    line = f"Added {address} to “{workspace}” as {role}."
    fields = {"email": address, "role": role, "workspace": workspace}
    tell_once(json.dumps(fields) if as_json else line, f"Done: {line}")


@account_command.command("list")
@workspace_option
@json_option
def list_accounts(workspace: str, as_json: bool) -> None:
    """List the accounts of a workspace."""
    with opened_workspace(workspace) as components:
        rows = _rows(components, workspace)
    if as_json:
        echo(json.dumps({"accounts": [_as_json(row) for row in rows]}))
        return
    table = Table("E-mail", "Role", "Added", "Last sign-in", "Status")
    for row in rows:
        signed_in_at = "never" if row.signed_in_at is None else date_utc(row.signed_in_at)
        role = row.account.role if row.account else "unknown"
        table.add_row(Text(escaped(row.email)), role, date_utc(row.added_at), signed_in_at, row.status)
    if rows:
        print_table(table)
    else:
        echo(f"Workspace {workspace} has no accounts.")


@account_command.command("role")
@click.argument("email")
@click.argument("role", type=_role)
@workspace_option
def change_role(email: str, role: str, workspace: str) -> None:
    """Change the role of an account."""
    with opened_workspace(workspace) as components:
        _print_state(
            components.of(AccountComponents).accounts.change_role(operator(workspace), email, role, request())
        )
        _warn_without_owner(components, workspace)


@account_command.command("disable")
@click.argument("email")
@click.option("--reason", default="", help="The reason, which is kept in the audit log.")
@workspace_option
def disable_account(email: str, reason: str, workspace: str) -> None:
    """Disable an account and sign it out everywhere."""
    reason = ReasonSchema().load({"reason": reason})["reason"]
    with opened_workspace(workspace) as components:
        _print_state(
            components.of(AccountComponents).accounts.disable(operator(workspace), email, reason, request())
        )
        _warn_without_owner(components, workspace)


@account_command.command("enable")
@click.argument("email")
@workspace_option
def enable_account(email: str, workspace: str) -> None:
    """Enable a disabled account."""
    with opened_workspace(workspace) as components:
        _print_state(components.of(AccountComponents).accounts.enable(operator(workspace), email, request()))


@account_command.command("password")
@click.argument("email")
@_password_stdin
@workspace_option
def reset_password(email: str, password_stdin: bool, workspace: str) -> None:
    """Set a new password and print it. It is shown only once."""
    if not password_stdin:
        ensure_writable()
    password = _read_password() if password_stdin else new_password()
    with opened_workspace(workspace) as components:
        components.of(AccountComponents).accounts.reset_password(
            operator(workspace), email, password, request()
        )
    if not password_stdin:
        tell_once(
            password,
            f"The password of {email} was changed, but couldn't be printed. "
            "Run `keyledger account password` again.",
        )
    note(f"The new password of {email} works now. All sessions were signed out.")


def _read_password() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _asked_password() -> str:
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


def _rows(components: Container, workspace: str) -> list[AccountRow]:
    accounts, rows, cursor = components.of(AccountComponents).account_list, list[AccountRow](), ""
    while True:
        page = accounts.page(operator(workspace), _PAGE, cursor)
        rows += page.rows
        if page.next_cursor is None:
            return rows
        cursor = page.next_cursor


def _warn_without_owner(components: Container, workspace: str) -> None:
    """Only the operator can leave a workspace without an owner, and only they can give it one again."""
    accounts = (row.account for row in _rows(components, workspace))
    if not any(account and account.enabled and account.role == "owner" for account in accounts):
        note(
            f"Workspace {workspace} has no owner now. Assign one: "
            "`keyledger account role EMAIL owner`, or `keyledger account enable EMAIL`."
        )


def _print_state(account: Account) -> None:
    state = "is enabled" if account.enabled else "is disabled"
    report(f"{account.email} {state} in workspace {account.workspace} as {account.role}.")


def _as_json(row: AccountRow) -> dict[str, str | None]:
    return {
        "email": row.email,
        "role": row.account.role if row.account else None,
        "status": row.status,
        "added_at": rfc3339(row.added_at),
        "signed_in_at": None if row.signed_in_at is None else rfc3339(row.signed_in_at),
    }
