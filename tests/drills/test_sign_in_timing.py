"""The duration of a failed sign-in doesn't reveal whether the account exists."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Service
from tests.support.web_client import Visitor

TRIES = 200
APART = 0.05


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A Keyledger without a sign-in limit."""
    running = Service(tmp_path / "data", KEYLEDGER_SIGN_IN_LIMIT="0")
    running.start()
    yield running
    assert running.stop() == 0


def medians(visitor: Visitor, emails: tuple[str, str]) -> tuple[float, float]:
    """Returns the durations of the rejections in ms."""
    took: tuple[list[float], list[float]] = ([], [])
    token = visitor.token()
    for number in range(2 * TRIES):
        # Alternating the order, so that other load affects both equally.
        which = (number + number // 2) % 2
        fields = {"email": emails[which], "password": "a wrong password", "csrf_token": token}
        began = time.perf_counter()
        assert visitor.post(f"{visitor.url}/sign-in", data=fields, timeout=10).status_code == 422
        took[which].append((time.perf_counter() - began) * 1000)
    return statistics.median(took[0]), statistics.median(took[1])


@pytest.mark.drill
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_known_and_unknown_accounts_are_rejected_in_the_same_time(service: Service) -> None:
    known = service.sign_in()[0]
    of_known, of_unknown = medians(Visitor(service.url), (known, f"un{known}"))
    print(f"\nrefused after {of_known:.2f} ms if known, {of_unknown:.2f} ms if unknown")
    assert abs(of_known / of_unknown - 1) < APART
