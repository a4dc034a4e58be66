"""Searching the audit log, on each kind of database."""

import random

import msgspec
import pytest

from services.audit.log.filters import Filters
from services.audit.log.histogram import edges
from services.audit.log.search import TooManyKeysError
from services.audit.log.store import AuditLog
from services.audit.log.terms import term_of
from shared.eventstore.envelope import Actor, Request
from shared.eventstore.events import AccountAdded, KeyDetails, KeyDetailsChanged, SignInFailed
from tests.support.histories import AT, created, found, record, records


@pytest.fixture
def varied(log: AuditLog) -> AuditLog:
    """Six entries of two workspaces."""
    bob = Actor(kind="key", id="key:bob", label="Bob's CI")
    log.append(
        [
            record(1, AccountAdded(role="owner"), subject="account:ann@example.org", at=AT),
            record(2, created("Müller & Söhne"), subject="key:1", at=AT + 10),
            record(3, created('a "quoted"\nname'), subject="key:2", actor=bob, at=AT + 20),
            record(4, subject="key:1", actor=bob, at=AT + 20),
            record(5, subject="key:1", workspace="other", at=AT + 30),
            record(
                6,
                subject="key:2",
                actor=Actor(kind="anonymous", id="2001:db8::8", label="2001:db8::8"),
                request=Request(id="r6", ip="2001:db8::7", user_agent=None),
                at=AT + 40,
            ),
        ]
    )
    return log


@pytest.mark.parametrize(
    ("criteria", "positions"),
    [
        ({}, [6, 4, 3, 2, 1]),
        ({"workspace": "other"}, [5]),
        ({"workspace": "none"}, []),
        ({"key_id": "1"}, [4, 2]),
        ({"key_id": "none"}, []),
        ({"actor": "Bob's CI"}, [4, 3]),
        ({"actor": "account:ann@example.org"}, [2, 1]),
        ({"actor": "Bob"}, []),
        ({"type": "KeyCreated"}, [3, 2]),
        ({"since": AT + 20}, [6, 4, 3]),
        ({"until": AT + 20}, [2, 1]),
        ({"since": AT + 10, "until": AT + 40, "actor": "Bob's CI", "key_id": "2"}, [3]),
        ({"q": "Müller"}, [2]),
        ({"q": "MüLLER"}, [2]),
        ({"q": 'a "quoted"\nname'}, [3]),
        ({"q": "söhne MÜLLER"}, [2]),
        ({"q": "Müll"}, []),
        ({"q": "2001:DB8::7"}, [6]),
        ({"q": "quoted ann"}, []),
        ({"q": "key=1"}, [4, 3, 2]),
        ({"q": '" OR "müller'}, []),
        ({"q": "%"}, []),
        ({"q": "x\x00"}, []),
        ({"q": "ab" * 32}, []),
        ({"q": "x" * 5_000}, []),
        ({"ip": "2001:db8::7"}, [6]),
        ({"ip": "[2001:DB8:0::7]:443"}, [6]),
        ({"ip": "2001:db8::"}, []),
        ({"ip": "::FFFF:c000:207"}, [4, 3, 2, 1]),
        ({"ip": "no address"}, []),
        ({"actor": "[2001:DB8:0::8]:443"}, [6]),
        ({"name": "müller"}, [4, 2]),
        ({"name": "MÜLLER söhne", "type": "KeyToggled"}, [4]),
        ({"name": "ann"}, []),
        ({"name": "&"}, []),
        ({"name": "quoted", "workspace": "other"}, []),
        ({"name": "quoted", "until": AT + 40}, [3]),
        ({"actor": "x\x00"}, []),
        ({"involving": "1"}, [4, 2]),
        ({"involving": "key:bob"}, [4, 3]),
        ({"involving": "account:ann@example.org"}, [2, 1]),
        ({"involving": "Bob's CI"}, []),
    ],
)
def test_a_search_returns_matching_entries_newest_first(
    varied: AuditLog, criteria: dict[str, object], positions: list[int]
) -> None:
    assert found(varied, **criteria) == positions


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_the_index_finds_the_first_matches_of_any_range_in_both_directions(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("services.audit.log.text_index._PART", 6)
    monkeypatch.setattr("services.audit.log.text_index._BLOCKS", (4, 2))
    monkeypatch.setattr("services.audit.log.text_index._MAX_ROWS", rows)
    chance = random.Random(rows)  # chance that can be repeated
    with log.database.writing() as connection:
        words = {n: set(chance.sample(["a", "b", "c", "rare"], chance.randint(0, 3))) for n in range(1, 201)}
        words |= {n: {"old"} for n in range(30, 110)}
        index = log.database.index
        index.add(connection, words.items())
        for wanted in (
            (("a",),),
            (("a",), ("b",)),
            (("rare", "old"), ("a", "old")),
            (("none",),),
            (("old",),),
        ):
            match = [n for n, has in words.items() if all(has & {*group} for group in wanted)]
            for _ in range(12):
                between = range(*sorted((chance.randint(1, 201), chance.randint(1, 201))))
                limit = chance.choice([1, 5, 200])
                within = [n for n in match if n in between]
                upwards = index.find(connection, wanted, between, limit, ascending=True) if between else []
                downwards = index.find(connection, wanted, between, limit) if between else []
                assert upwards == within[:limit]
                assert downwards == within[::-1][:limit]
            assert index.find_few(connection, wanted) == match
            counts = index.count(connection, wanted, [1, 1, 20, 101, 150])
            assert counts == [
                0,
                *(sum(n in r for n in match) for r in (range(1, 20), range(20, 101), range(101, 150))),
            ]


def test_matching_entries_are_streamed_oldest_first(log: AuditLog) -> None:
    log.append(records(range(1, 1_501)))
    found = log.search.ascending(Filters(workspace="default", key_id="2", since=AT + 10))
    assert [entry.position for entry in found] == list(range(11, 1_501, 3))


def test_text_cannot_be_mistaken_for_a_filter_term(log: AuditLog) -> None:
    secret = term_of("workspace", "default")
    log.append([record(1, created(f"{secret} {secret.partition('=')[2]}"), workspace="other")])
    assert found(log) == []
    assert found(log, workspace="other", q=secret) == [1]


def test_a_name_filter_matching_too_many_keys_is_rejected(log: AuditLog) -> None:
    log.append([record(n, created(f"Service {n}"), subject=f"key:{n}") for n in range(1, 102)])
    assert found(log, name="service 7") == [7]
    with pytest.raises(TooManyKeysError, match="More than 100 keys"):
        found(log, name="service")


def test_pages_have_no_gaps_or_overlaps_while_entries_are_appended(log: AuditLog) -> None:
    log.append(records(range(1, 8)))
    cursor = None
    for expected in ([7, 6, 5], [4, 3, 2], [1]):
        page = log.search.page(Filters(workspace="default"), 3, cursor)
        assert [entry.position for entry in page.entries] == expected
        cursor = page.next_cursor
        log.append(records([log.last().position + 1]))  # newer ones do not move the pages
    assert cursor is None


def test_a_full_last_page_has_no_next_cursor(log: AuditLog) -> None:
    log.append(records(range(1, 4)))
    assert log.search.page(Filters(workspace="default"), 3).next_cursor is None


def test_keys_are_shown_with_their_latest_names(varied: AuditLog) -> None:
    before = KeyDetails(name="Müller & Söhne", description="", scopes=(), expires_at=None)
    after = msgspec.structs.replace(before, name="Müller GmbH")
    varied.append([record(7, KeyDetailsChanged(before=before, after=after, reason=""), at=AT + 50)])
    assert varied.search.key_names("default", ["1", "2", "9"]) == {
        "1": "Müller GmbH",
        "2": 'a "quoted"\nname',
    }
    assert found(varied, name="söhne") == found(varied, name="gmbh") == [7, 4, 2]
    assert varied.search.key_names("other", ["1"]) == {}
    assert varied.search.key_names("default", []) == {}


def test_a_timeline_has_actions_by_and_on_its_subject(log: AuditLog) -> None:
    ann, key = "account:ann@example.org", Actor(kind="key", id="K", label="CI")
    owner = Actor(kind="account", id="account:olga@example.org", label="olga@example.org")
    stranger = Actor(kind="anonymous", id="192.0.2.7", label="192.0.2.7")
    log.append(
        [
            record(1, AccountAdded(role="developer"), subject=ann, actor=owner),
            record(2, SignInFailed(attempts=3), subject="sign-in:ann@example.org", actor=stranger),
            record(3, created("CI"), subject="key:K"),
            record(4, created("Another"), subject="key:L", actor=key),
            record(5, created("Third"), subject="key:M", actor=owner),
        ]
    )
    assert found(log, involving=ann) == [3, 2, 1]
    assert found(log, involving="K") == [4, 3]
    assert found(log, involving="K", workspace="other") == []


def test_activity_is_counted_from_the_first_to_the_last_match(log: AuditLog) -> None:
    minute, hour = 60_000, 3_600_000
    begin = AT // hour * hour
    at = [begin + 59 * minute, begin + hour, begin + hour, begin + 2 * hour + 1, begin + 40 * hour]
    log.append([record(n, subject=f"key:{n % 2}", at=each) for n, each in enumerate(at, 1)])
    activity = log.search.activity(Filters(workspace="default"))
    assert activity is not None
    assert (activity.width, activity.total, activity.highest) == (hour, 5, 2)
    assert activity.bars[0] == (begin, begin + hour, 1)
    assert [(each.since - begin) // hour for each in activity.bars if each.entries] == [0, 1, 2, 40]
    assert [each.entries for each in activity.bars if each.entries] == [1, 2, 1, 1]

    narrowed = log.search.activity(Filters(workspace="default", since=begin + hour, until=begin + 3 * hour))
    assert narrowed is not None
    assert (narrowed.width, narrowed.total) == (minute * 5, 3)
    of_one = log.search.activity(Filters(workspace="default", key_id="1", until=at[2]))
    assert of_one is not None
    assert of_one.bars == [(at[0], at[0] + 1_000, 1)]
    assert log.search.activity(Filters(workspace="other")) is None
    assert log.search.activity(Filters(workspace="default", since=at[-1] + 1)) is None


@pytest.mark.parametrize("span", [0, 999, 59_000, 61_000, 10**8, 10**10, 10**12, 10**13])
@pytest.mark.parametrize("first", [0, AT, AT // 86_400_000 * 86_400_000 - 1])
def test_a_chart_covers_its_time_span_with_up_to_60_bars(first: int, span: int) -> None:
    of = edges(first, first + span)
    assert of[0] <= first < first + span + 1 <= of[-1]
    assert 1 <= len(of) - 1 <= 60
    assert of[0] % of.step == 0
    assert span < 60_000 or span > of.step * 10
