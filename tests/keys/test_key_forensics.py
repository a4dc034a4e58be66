"""Key forensics for the audit service, with real commands on a ledger."""

import random

import pytest
from redis import Redis

from services.keys.commands import KeyCommands
from services.keys.forensics import LedgerForensics
from services.keys.model.key import ChangeKey
from services.keys.model.token import ApiKey, mint_again
from services.keys.queries import Keys
from services.keys.read_model.generations import Views
from services.keys.verification.cache import KeyCache
from services.keys.verification.invalidation import CacheInvalidator
from services.keys.verification.usage import Usage
from services.keys.verification.verifier import Verifier
from shared.eventstore.envelope import UnreadableEventError
from shared.eventstore.ledger import LOG, Ledger
from shared.eventstore.point_in_time import PointInTimeError, Position, Time
from shared.forensics import FoundKey, NotAKeyError
from tests.support.principals import REQUEST, new_key, now, principal

DAY_S = 24 * 60 * 60
OFF, ON = ChangeKey(enabled=False, reason="leaked"), ChangeKey(enabled=True)


@pytest.fixture
def usage(fake_store: Redis) -> Usage:
    return Usage(fake_store)


@pytest.fixture
def forensics(commands: KeyCommands, fake_store: Redis, usage: Usage) -> LedgerForensics:
    return LedgerForensics(Keys(commands, Views(fake_store)), usage)


def created(commands: KeyCommands, workspace: str = "default", **fields: object) -> ApiKey:
    done = commands.create(principal(workspace), new_key(name="Web", **fields), REQUEST)  # type: ignore[arg-type]
    assert done.api_key
    return done.api_key


def rotated(commands: KeyCommands, key_id: str, grace_seconds: int) -> ApiKey:
    done = commands.rotate(principal(), key_id, grace_seconds, REQUEST)
    assert done.api_key
    return done.api_key


def found(forensics: LedgerForensics, api_key: ApiKey) -> FoundKey:
    answer = forensics.find("default", api_key.reveal())
    assert answer
    return answer


def test_a_past_verdict_matches_the_one_given_at_the_time(
    forensics: LedgerForensics, commands: KeyCommands, ledger: Ledger
) -> None:
    memory = KeyCache(10)
    verify = Verifier(ledger, memory, CacheInvalidator(ledger, memory), now, lambda _: None)
    chance = random.Random(6)
    api_key = created(commands, scopes=("a", "b"))
    said: list[tuple[int, str, str | None]] = []
    earlier: ApiKey | None = None
    for step in range(60):
        match chance.randrange(4):
            case 0:
                commands.change(principal(), api_key.id, ChangeKey(enabled=chance.random() < 0.7), REQUEST)
            case 1:
                scopes = ("a",) if chance.random() < 0.5 else ("b", "a")
                commands.change(principal(), api_key.id, ChangeKey(details={"scopes": scopes}), REQUEST)
            case 2:
                earlier, grace = api_key, chance.choice([0, DAY_S])
                api_key = rotated(commands, api_key.id, grace)
            case _:
                commands.change(principal(), api_key.id, ChangeKey(details={"name": f"Web {step}"}), REQUEST)
        codes = [verify(key.reveal(), ("b",)).code for key in (api_key, earlier) if key]
        said.append((ledger.head().position, codes[0], codes[1] if earlier else None))
    for position, code, before in said:
        answer = forensics.verdict_at("default", api_key.id, Position(position), ("b",))
        assert answer
        assert answer.code == code
        assert (answer.earlier_secret_until is not None) == (before in {"VALID", "INSUFFICIENT_SCOPES"})
    assert {code for _, code, _ in said} == {"VALID", "DISABLED", "INSUFFICIENT_SCOPES"}


def test_before_its_creation_the_verdict_is_not_found_and_names_the_creation(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    created(commands)
    key = created(commands)
    for moment in (Position(1), Time(0)):
        answer = forensics.verdict_at("default", key.id, moment, ())
        assert answer
        assert (answer.code, answer.key, answer.cause.position) == ("NOT_FOUND", None, 2)
        assert answer.words.startswith("No: it didn't exist yet. a@b created it at ")


def test_a_key_of_another_workspace_is_treated_like_an_unknown_key(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    theirs = created(commands, "other")
    for key_id in (theirs.id, "000000000000", "no id", ""):
        for moment in (Position(1), Time(0), Position(99), Time(99_000_000_000_000)):
            assert forensics.verdict_at("default", key_id, moment, ()) is None
    assert forensics.find("default", theirs.reveal()) is None


def test_a_point_in_time_in_the_future_is_rejected(forensics: LedgerForensics, commands: KeyCommands) -> None:
    key = created(commands)
    for moment, words in ((Position(2), "not yet there"), (Time(99_000_000_000_000), "in the future")):
        with pytest.raises(PointInTimeError, match=words):
            forensics.verdict_at("default", key.id, moment, ())


def test_an_unreadable_event_is_an_error_only_where_the_answer_depends_on_it(
    forensics: LedgerForensics, commands: KeyCommands, fake_store: Redis
) -> None:
    key = created(commands)
    commands.change(principal(), key.id, OFF, REQUEST)
    strange = commands.ledger.read(1, 1)[0].body.replace(b'"KeyToggled"', b'"KeyTwisted"')
    strange = strange.replace(b'"version":2', b'"version":3')
    fake_store.xadd(LOG, {"at": 1, "event": strange}, id="0-*")
    fake_store.rpush(f"{{kl:0}}:subject:key:{key.id}", 3)
    answer = forensics.verdict_at("default", key.id, Position(1), ())
    assert answer
    assert answer.code == "VALID"  # what happened later has no part in it
    with pytest.raises(UnreadableEventError):
        forensics.verdict_at("default", key.id, Position(3), ())
    with pytest.raises(UnreadableEventError):
        forensics.find("default", key.reveal())
    assert forensics.find("other", key.reveal()) is None


def test_a_token_is_reported_as_the_current_secret_of_its_key(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    expires_at = now() + 60_000
    key = created(commands, expires_at=expires_at)
    answer = found(forensics, key)
    assert (answer.id, answer.name, answer.workspace, answer.created_by) == (key.id, "Web", "default", "a@b")
    assert (answer.status, answer.good, answer.expires_at) == ("active", True, expires_at)
    assert (answer.secret.standing, answer.secret.since) == ("present", answer.created_at)
    assert (answer.secret.replaced_at, answer.secret.good_until) == (None, expires_at)


def test_a_rotated_secret_is_reported_with_its_replacement_time_and_expiry(
    forensics: LedgerForensics, commands: KeyCommands, ledger: Ledger
) -> None:
    first = created(commands)
    second = rotated(commands, first.id, 3600)
    [born, once] = ledger.history(f"key:{first.id}")
    in_grace = found(forensics, first)
    assert (in_grace.secret.standing, in_grace.good) == ("grace", True)
    assert (in_grace.secret.since, in_grace.secret.replaced_at) == (born.at, once.at)
    assert in_grace.secret.good_until == once.data.previous_expires_at
    assert found(forensics, second).secret.since == once.at

    # The next rotation ends all earlier secrets but the last, whatever their grace period.
    third = rotated(commands, first.id, 3600)
    twice = ledger.history(f"key:{first.id}")[-1]
    gone = found(forensics, first)
    assert (gone.secret.standing, gone.good, gone.secret.good_until) == ("replaced", False, twice.at)
    standings = [found(forensics, key).secret.standing for key in (first, second, third)]
    assert standings == ["replaced", "grace", "present"]


def test_a_secret_rotated_without_a_grace_period_is_reported_as_replaced(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    first = created(commands)
    rotated(commands, first.id, 0)
    answer = found(forensics, first)
    assert (answer.secret.standing, answer.good, answer.status) == ("replaced", False, "active")


def test_a_grace_period_ends_when_the_key_expires(forensics: LedgerForensics, commands: KeyCommands) -> None:
    first = created(commands)
    rotated(commands, first.id, DAY_S)
    expires_at = now() + 5_000
    commands.change(principal(), first.id, ChangeKey(details={"expires_at": expires_at}), REQUEST)
    assert found(forensics, first).secret.good_until == expires_at


def test_the_current_status_is_reported_and_only_an_active_token_is_valid(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    key = created(commands)
    said = []
    for command in (OFF, ON):
        commands.change(principal(), key.id, command, REQUEST)
        said.append((found(forensics, key).status, found(forensics, key).good))
    commands.revoke(principal(), key.id, "leaked", REQUEST)
    said.append((found(forensics, key).status, found(forensics, key).good))
    assert said == [("inactive", False), ("active", True), ("revoked", False)]


def test_a_forged_secret_with_the_id_of_a_key_is_not_found(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    key = created(commands)
    forged = mint_again("kl", key.id, random.Random(3).randrange)
    assert forensics.find("default", forged.reveal()) is None


def test_text_that_is_not_a_complete_key_is_rejected_without_repeating_it(
    forensics: LedgerForensics, commands: KeyCommands
) -> None:
    token = created(commands).reveal()
    for text in (token[:-1], f"{token} ", token[:-1] + "!", "", "nonsense", "\ud800", "x" * 100_000):
        with pytest.raises(NotAKeyError) as refused:
            forensics.find("default", text)
        assert str(refused.value) == ""
        assert refused.value.__cause__ is None


def test_usage_is_reported_by_day_newest_first(
    forensics: LedgerForensics, commands: KeyCommands, usage: Usage
) -> None:
    key = created(commands)
    assert forensics.use(key.id).last_used_at is None
    today, before = now(), now() - 3 * DAY_S * 1000
    for code, at in [("VALID", before), ("VALID", today), ("DISABLED", today), ("EXPIRED", today)]:
        usage.note((key.id, code, at))
    usage.flush()
    use = forensics.use(key.id)
    assert use.last_used_at == today
    assert [(day.accepted, day.refused, dict(day.reasons)) for day in use.days] == [
        (1, 2, {"DISABLED": 1, "EXPIRED": 1}),
        (1, 0, {}),
    ]
