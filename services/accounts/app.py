"""Attaches the accounts to a web application."""

from flask import Flask

from services.accounts.commands import Accounts
from services.accounts.pages import blueprint
from shared.web.access import attach


def register(app: Flask, accounts: Accounts) -> None:
    """Adds the pages, and what they work with."""
    attach(app, accounts)
    app.register_blueprint(blueprint)
