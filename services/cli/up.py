"""The command that starts everything."""

import click

from services.runtime.up import run_everything
from shared.settings import Settings


@click.command("up")
def up_command() -> None:
    """Start everything: the embedded store, the web, the projector, the audit relay and worker."""
    run_everything(Settings.from_environment())
