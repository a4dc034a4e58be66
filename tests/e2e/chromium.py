"""The system's Chromium, as the tests and the pictures of the pages use it."""

import shutil
from typing import Any

from playwright.sync_api import Browser

from tests.real import need

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launched(playwright: Any) -> Browser:
    """A browser that asks nothing of anybody but the pages that it is led to."""
    binary = need(shutil.which("chromium") or shutil.which("chromium-browser"), "chromium")
    return playwright.chromium.launch(executable_path=binary, args=_OPTIONS)
