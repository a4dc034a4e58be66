"""Attaches the keys' calls and pages to the web application."""

from flask import Flask

from services.keys import api, pages
from services.keys.commands import NoSuchKeyError, StaleVersionError
from services.keys.moments import MomentError, NotYetCreatedError
from services.keys.service import Keys
from shared.web.access import attach
from shared.web.app import JsonApi, attach_calls


def register(app: Flask, json_api: JsonApi, keys: Keys) -> None:
    """Wiring and error mapping only."""
    attach(app, keys)
    attach_calls(app, json_api, api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_error_handler(NoSuchKeyError, api.no_such_key)
    app.register_error_handler(StaleVersionError, api.stale_version)
    app.register_error_handler(MomentError, api.no_such_moment)
    app.register_error_handler(NotYetCreatedError, api.not_yet_created)
