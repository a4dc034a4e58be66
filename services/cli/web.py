"""The command that serves the dashboard and the API."""

import click

from services.runtime.server import serve_pages


@click.command("web")
def web_command() -> None:
    """Serve the dashboard and the API."""
    serve_pages("create_web")
