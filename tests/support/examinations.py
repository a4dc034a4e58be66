"""Installations for the doctor's tests, and assertions about findings."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis import Redis

from shared.service.checks import Finding, Level
from shared.service.installation import Installation
from shared.service.installation import examined as visited
from shared.settings import Settings


@contextmanager
def examined(data_dir: Path, **changed: Any) -> Iterator[Installation]:
    """Yields an installation with the settings of a first start, except the given ones."""
    with visited(replace(Settings.from_environment(), data_dir=data_dir, **changed)) as installation:
        yield installation


@contextmanager
def configured(store: Redis, **settings: str) -> Iterator[None]:
    """Changes settings of a store temporarily."""
    changed = {name.replace("_", "-"): value for name, value in settings.items()}
    before = {name: store.config_get(name)[name] or "" for name in changed}
    try:
        for name, value in changed.items():
            store.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            store.config_set(name, value)


def expect(findings: Iterable[Finding], level: Level, found: str, advice: str | None = None) -> str:
    """Asserts that exactly one finding has the level, text and advice, and returns its whole text."""
    of_level = [finding for finding in findings if finding.level is level]
    assert len(of_level) == 1, of_level
    assert found in of_level[0].found
    assert (advice is None) == (of_level[0].advice is None)
    assert advice is None or advice in str(of_level[0].advice)
    return of_level[0].found


def expect_ok(findings: Iterable[Finding], found: str) -> None:
    """Asserts that there is exactly one finding, and that it is OK."""
    all_of_them = list(findings)
    assert {finding.level for finding in all_of_them} == {Level.OK}, all_of_them
    expect(all_of_them, Level.OK, found)
