"""The `keyledger` command, with one subcommand per process or task."""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from marshmallow import ValidationError
from redis import RedisError

from services.runtime.manifests import MANIFESTS
from services.runtime.output import note, prepare_output, settle
from shared.errors import UserFacingError
from shared.process.telemetry import configure_logs
from shared.service.manifest import Manifest
from shared.web.schemas import field_errors

# By name, the module that has the command, which is imported only when it is called: a process starts faster.
_COMMANDS = {
    "backup": "services.cli.backup",
    "doctor": "services.cli.doctor",
    "export": "services.cli.transfer",
    "import": "services.cli.transfer",
    "restore": "services.cli.backup",
    "up": "services.cli.up",
    "web": "services.cli.web",
}


class Keyledger(click.Group):
    """The commands of the installation and of all services. Each error is one line that says what to do."""

    def __init__(self, *arguments: Any, manifests: Sequence[Manifest] = MANIFESTS, **options: Any) -> None:
        super().__init__(*arguments, **options)
        services = {name: place for each in manifests for name, place in each.commands.items()}
        self._modules = dict(sorted((_COMMANDS | services).items()))

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in self._modules:
            return None
        found: click.Command = getattr(import_module(self._modules[name]), f"{name}_command")
        return found

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Reports an output that can't be written, also of the help, which is printed before `invoke`."""
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
            raise _FailedCommand(f"The store gave an unexpected answer ({error}): try again.") from error
        except BrokenPipeError as error:  # the reader has closed its end
            raise SystemExit(1) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise _FailedCommand(f"{place}{error.strerror or error}.") from error


class _FailedCommand(click.ClickException):
    """One line on standard error, with control characters escaped."""

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # as click calls it
        note(f"Error: {self.format_message()}")


@click.group(cls=Keyledger)
def main() -> None:
    """Self-hosted API keys with a tamper-evident history."""
    prepare_output()
    configure_logs(logging.WARNING)
