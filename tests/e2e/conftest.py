"""A complete Keyledger and a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.e2e.chromium import launched
from tests.support.service import Service
from tests.support.sign_in import signed_in

expect.set_options(timeout=60_000)  # ms; a busy machine fails no test


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One Keyledger for all tests that can share it, because starting one takes seconds."""
    running = Service(tmp_path_factory.mktemp("data"))
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def service(shared_service: Service, request: pytest.FixtureRequest) -> Service:
    """The shared Keyledger, with a separate workspace for each module."""
    return shared_service.tenant(request.module.__name__.rpartition(".")[2].replace("_", "-"))


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The system's Chromium, per module because Playwright keeps an event loop running meanwhile."""
    with sync_playwright() as playwright:
        running = launched(playwright, whole=request.node.get_closest_marker("drill") is not None)
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    """A browser context with access to the clipboard."""
    made = browser.new_context(base_url=service.url)
    made.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.url)
    made.set_default_timeout(60_000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def cookies(browser: Browser, service: Service) -> Any:
    """The session cookies of the first owner."""
    context = browser.new_context(base_url=service.url)
    _sign_in(context.new_page(), service)
    held = context.cookies()
    context.close()
    return held


@pytest.fixture(scope="module")
def auditors_cookies(browser: Browser, service: Service) -> Any:
    """The session cookies of an auditor."""
    context = browser.new_context(base_url=service.url)
    signed_in(context, service, "auditor")
    held = context.cookies()
    context.close()
    return held


@pytest.fixture
def page(context: BrowserContext, service: Service, cookies: Any) -> Page:
    """The dashboard, signed in as the first owner; signs in again if a test ended the session."""
    context.add_cookies(cookies)
    opened = context.new_page()
    opened.goto("/")
    if "/sign-in" in opened.url:
        _sign_in(opened, service)
    return opened


def _sign_in(page: Page, service: Service) -> None:
    email, password = service.sign_in()
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/keys")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that doesn't exist yet."""
    return tmp_path / "data"
