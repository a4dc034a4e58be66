"""The command that starts all processes."""

import click

from services.runtime.up import run_everything
from shared.settings import Settings


@click.command("up")
def up_command() -> None:
    """Start all processes: the embedded store, web, projector, audit relay and audit worker."""
    run_everything(Settings.from_environment())
