"""The command that serves pages and calls."""

import click

from services.runtime.server import serve_pages


@click.command("web")
def web_command() -> None:
    """Serve all pages and calls."""
    serve_pages("create_web")
