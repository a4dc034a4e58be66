"""The `keyledger` command: the composition root, one sub-command per process or task."""

import logging
from importlib import import_module
from typing import Any

import click
from marshmallow import ValidationError
from redis import RedisError

from shared.errors import AdvisedError
from shared.schemas import field_errors
from shared.telemetry import configure_logs

# By name, the module that has it, which is imported only if it is asked for: a process starts the sooner.
_COMMANDS = {
    "account": "services.cli.accounts",
    "audit": "services.cli.audit",
    "backup": "services.cli.backup",
    "doctor": "services.cli.doctor",
    "export": "services.cli.moving",
    "import": "services.cli.moving",
    "key": "services.cli.keys",
    "projector": "services.cli.views",
    "replay": "services.cli.views",
    "restore": "services.cli.backup",
    "up": "services.cli.up",
    "web": "services.cli.web",
}


class _Keyledger(click.Group):
    """Tells errors in one line, with what to do next."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        found: click.Command = getattr(import_module(_COMMANDS[name]), f"{name}_command")
        return found

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except AdvisedError as error:
            raise click.ClickException(str(error)) from error
        except ValidationError as error:
            rows = field_errors(error.messages)
            raise click.ClickException(
                " ".join(f"{row['field']}: {row['message']}" for row in rows)
            ) from error
        except RedisError as error:
            raise click.ClickException(f"The store went away ({error}): try again.") from error


@click.group(cls=_Keyledger)
def main() -> None:
    """An API-key service whose truth is a ledger of events."""
    configure_logs(logging.WARNING)
