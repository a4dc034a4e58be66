"""The system's Chromium, for the browser tests and the screenshots."""

import shutil
from typing import Any

from playwright.sync_api import Browser

from tests.support.processes import need

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launched(playwright: Any, *, whole: bool = True) -> Browser:
    """Launches a browser that makes no requests besides those of the pages it opens.

    If not the whole, its headless shell where that is installed: the same engine for a third of the work.
    """
    shell = None if whole else shutil.which("chromium-headless-shell")
    binary = need(shell or shutil.which("chromium") or shutil.which("chromium-browser"), "chromium")
    return playwright.chromium.launch(executable_path=binary, args=_OPTIONS)
