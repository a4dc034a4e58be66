"""The `keyledger` command: the composition root, one sub-command per process or task."""

import logging
from importlib import import_module
from typing import Any

import click
from marshmallow import ValidationError
from redis import RedisError

from services.runtime.output import note, prepare_output, settle
from shared.errors import UserFacingError
from shared.process.telemetry import configure_logs
from shared.web.schemas import field_errors

# By name, the module that has it, which is imported only if it is asked for: a process starts the sooner.
_COMMANDS = {
    "account": "services.cli.accounts",
    "audit": "services.cli.audit",
    "backup": "services.cli.backup",
    "doctor": "services.cli.doctor",
    "export": "services.cli.transfer",
    "import": "services.cli.transfer",
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

    def main(self, *arguments: Any, **options: Any) -> Any:
        """The help of the command itself is printed while arguments are parsed, before `invoke`."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            note(f"Error: Standard output can't be written ({error.strerror or error}).")
            raise SystemExit(1) from error
        finally:
            settle()

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except UserFacingError as error:
            raise _FailedCommand(str(error)) from error
        except ValidationError as error:
            rows = field_errors(error.messages)
            raise _FailedCommand(" ".join(f"{row['field']}: {row['message']}" for row in rows)) from error
        except RedisError as error:
            raise _FailedCommand(f"The store doesn't answer as it should ({error}): try again.") from error
        except BrokenPipeError as error:  # whoever read it wants no more
            raise SystemExit(1) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise _FailedCommand(f"{place}{error.strerror or error}.") from error


class _FailedCommand(click.ClickException):
    """One line on standard error, in which nothing is obeyed by a terminal."""

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # as click calls it
        note(f"Error: {self.format_message()}")


@click.group(cls=_Keyledger)
def main() -> None:
    """An API-key service whose truth is a ledger of events."""
    prepare_output()
    configure_logs(logging.WARNING)
