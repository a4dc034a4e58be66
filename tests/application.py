"""The whole application with nothing behind it, to look at its routes."""

import os
from unittest.mock import patch

from flask import Flask

from services.runtime import web


def application() -> Flask:
    """As `keyledger web` makes it; nothing of it runs, and nothing connects."""
    settings = {"KEYLEDGER_REDIS_URL": "unix:///nowhere.sock", "KEYLEDGER_SECRET_KEY": "s" * 32}
    with (
        patch.dict(os.environ, settings),
        patch.object(web, "configure_logs"),
        patch.object(web, "_run_in_background"),
    ):
        return web.create_web()
