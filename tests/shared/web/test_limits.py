"""Rate limits of one web process."""

import time

import fakeredis
import pytest
from limits import parse

from services.accounts.model.account import subject
from shared.identity import ADMIN, Principal
from shared.web.access import Access, attach, begin_session
from shared.web.server.limits import Limits, TooManyRequestsError
from shared.web.session import StoredSessions
from tests.support.application import application

_ALL = frozenset({ADMIN})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0 * 60 + 59  # the last second of a minute


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


def caller(name: str) -> Principal:
    return Principal(
        kind="account", id=subject(name), label=name, workspace="default", scopes=frozenset({ADMIN})
    )


def enter(who: str) -> str:
    begin_session(subject(who), 1)
    return "in"


def passed(limits: Limits, who: str, times: int) -> int:
    """Returns how many of a number of requests are allowed."""
    count = 0
    for _ in range(times):
        try:
            limits.count(caller(who))
        except TooManyRequestsError:
            pass
        else:
            count += 1
    return count


def test_crossing_a_minute_boundary_does_not_double_the_rate(clock: Clock) -> None:
    limits = Limits(parse("60/minute"))
    assert passed(limits, "ada@example.com", 100) == 60
    clock.now += 2
    assert passed(limits, "ada@example.com", 100) <= 2
    assert passed(limits, "bob@example.com", 100) == 60
    clock.now += 30
    assert 28 <= passed(limits, "ada@example.com", 100) <= 32
    clock.now += 120
    assert passed(limits, "ada@example.com", 100) == 60


def test_requests_are_unlimited_without_a_rate() -> None:
    assert passed(Limits(None), "ada@example.com", 1_000) == 1_000


def test_an_accounts_page_requests_share_one_limit_across_its_sessions() -> None:
    app = application()
    app.session_interface = StoredSessions(fakeredis.FakeRedis(), "a secret of 32 characters at least")
    app.add_url_rule("/enter/<who>", "enter", enter)
    attach(app, Access(None, lambda name, _: caller(name.partition(":")[2]), lambda *_: None))  # type: ignore[arg-type]
    attach(app, Limits(parse("4/minute")))
    at_work, at_home, other = (app.test_client() for _ in range(3))
    for browser, who in ((at_work, "ada@x"), (at_home, "ada@x"), (other, "bob@x")):
        assert browser.get(f"/enter/{who}").status_code == 200
    form = at_work.get("/keys/new").text
    token = form.split('name="csrf_token" value="')[1].split('"')[0]
    assert at_work.post("/keys/new", data={"csrf_token": token}).status_code == 422
    answers = [at_home.get("/keys/new") for _ in range(20)]
    assert 2 <= sum(answer.status_code == 200 for answer in answers) <= 6  # a minute may end in between
    assert (answers[-1].status_code, "Too many requests." in answers[-1].text) == (429, True)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert other.get("/keys/new").status_code == 200
