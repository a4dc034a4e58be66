"""A whole Keyledger, and a real browser in front of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.real import Service, need

_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One Keyledger for the tests of a module."""
    running = Service(tmp_path_factory.mktemp("data"))
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. Not for the whole session: Playwright keeps an event loop running in it."""
    binary = need(shutil.which("chromium") or shutil.which("chromium-browser"), "chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=binary, args=_CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    """A person's browser, which may use the clipboard."""
    made = browser.new_context(base_url=service.url)
    made.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.url)
    made.set_default_timeout(10_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, service: Service) -> Page:
    """The dashboard, signed in as the first owner."""
    email, password = service.sign_in()
    opened = context.new_page()
    opened.goto("/")
    opened.get_by_label("Email").fill(email)
    opened.get_by_label("Password").fill(password)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url("**/keys")
    return opened


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that is not there yet."""
    return tmp_path / "data"
