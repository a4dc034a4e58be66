"""Runs axe on every page and state that has a screenshot, in light and dark, wide and narrow."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests import screenshots
from tests.screenshots import STATES, Scene, Visit, beginning, reading, signing_in
from tests.support.service import Service

pytestmark = [pytest.mark.drill, pytest.mark.timeout(400)]

Json = dict[str, Any]


class Judged(Visit):
    """A visit that runs axe instead of taking screenshots."""

    found: list[str]
    seen: list[str]

    def shoot(self, name: str, *, whole: bool = True) -> None:  # noqa: ARG002  # as it is called
        """Runs axe where a screenshot would be taken."""
        violations: list[Json] = Axe().run(self.page).response["violations"]
        self.seen.append(name)
        self.found += [
            f"{name}: {violation['id']} at {node['target']}: {node['failureSummary']}"
            for violation in violations
            for node in violation["nodes"]
        ]


@pytest.fixture
def running() -> Iterator[Service]:
    with screenshots.running() as service:
        yield service


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_pages_and_states_have_no_accessibility_violations(
    running: Service, browser: Browser, width: int, scheme: str
) -> None:
    scene = Scene(running)
    seen, found = list[str](), list[str]()
    for states in ((signing_in,), (beginning,), (reading,), STATES):
        context = browser.new_context(
            base_url=running.url,
            viewport={"width": width, "height": screenshots.WIDTHS[width]},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",  # what is half faded in has half its contrast
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(60_000)
        visit = Judged(scene, context, screenshots.FOLDER)
        visit.seen, visit.found = seen, found
        for state in states:
            state(visit)
        context.close()
    print(f"\naxe, {width} px, {scheme}: {len(seen)} pages and states, {len(found)} violations")
    assert len(seen) > 40
    assert not found, "\n".join(found)
