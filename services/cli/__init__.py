"""The `keyledger` command: the composition root, one sub-command per process or task."""

from typing import Any

import click
from marshmallow import ValidationError
from redis import RedisError

from services.accounts.commands import NoSuchAccountError
from services.accounts.domain import AccountExistsError, InvalidFieldError, OwnAccountError
from services.audit.database import AuditDatabaseError
from services.audit.export import ExportError
from services.audit.signing import SigningError
from services.cli.accounts import account
from services.cli.audit import audit
from services.cli.keys import key
from services.cli.terminal import serve_pages
from services.cli.views import export_command, import_command, projector, replay_command
from services.keys.commands import NoSuchKeyError
from services.keys.domain import RefusedError
from services.keys.rebuild import RebuildError
from services.keys.views import LeaseTakenError
from services.moving import MovingError
from services.supervisor import NotReadyError
from services.up import run_everything
from services.web import AddressError
from shared.connections import StoreError
from shared.schemas import field_errors
from shared.settings import Settings, SettingsError
from shared.telemetry import configure_logs

# What a person can do something about: told in one line, without a traceback.
_TOLD = (
    AccountExistsError,
    AddressError,
    AuditDatabaseError,
    ExportError,
    InvalidFieldError,
    MovingError,
    NoSuchAccountError,
    NotReadyError,
    OwnAccountError,
    RebuildError,
    RefusedError,
    SettingsError,
    SigningError,
    StoreError,
)


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
    serve_pages("create_web")


for command in (projector, replay_command, export_command, import_command, key, account, audit):
    main.add_command(command)
