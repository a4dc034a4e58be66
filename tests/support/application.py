"""The application without a store, for tests of its routes."""

import os
from unittest.mock import patch

from flask import Flask

from services.runtime import web


def application() -> Flask:
    """Creates the app as `keyledger web` does. Nothing runs or connects."""
    settings = {"KEYLEDGER_REDIS_URL": "unix:///nowhere.sock", "KEYLEDGER_SECRET_KEY": "s" * 32}
    with (
        patch.dict(os.environ, settings),
        patch.object(web, "configure_logs"),
        patch.object(web, "_run_in_background"),
    ):
        return web.create_web()
