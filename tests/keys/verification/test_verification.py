"""Key verification, and the cache that verdicts come from."""

import time
from collections.abc import Callable
from itertools import count
from threading import Event as Stop

import pytest
from redis import ConnectionError as StoreConnectionError
from redis import Redis

from services.keys.commands import CommandResult, KeyCommands
from services.keys.model.key import ChangeKey
from services.keys.model.token import ApiKey
from services.keys.verification import invalidation as currency
from services.keys.verification import verifier as verification
from services.keys.verification.cache import UNKNOWN, CachedKey, KeyCache, cached_key
from services.keys.verification.invalidation import CacheInvalidator
from services.keys.verification.verifier import BehindError, KeyAuthenticator, Verifier
from services.keys.web.create_endpoint import CreateEndpoint
from services.keys.web.fast_path import InvalidParameterError, VerdictEndpoints
from shared.eventstore.envelope import UnreadableEventError
from shared.eventstore.ledger import LOG, Ledger
from shared.identity import KEYS_VERIFY, UnauthenticatedError
from shared.text.key_detection import checksum
from shared.web.server.context import BODY, RequestContext
from shared.web.server.limits import Limits
from tests.support.principals import REQUEST, new_key, now, principal

OFF, ON = ChangeKey(enabled=False), ChangeKey(enabled=True)


class Process:
    """The verifier of one web process; its cache invalidator runs when a test calls follow()."""

    def __init__(self, store: Redis, memory: KeyCache | None = None) -> None:
        self.ledger = Ledger(store)
        self.memory = KeyCache(100) if memory is None else memory
        self.tail = CacheInvalidator(self.ledger, self.memory)
        self.uses: list[tuple[str, str, int]] = []
        self.clock = now
        self.verify = Verifier(self.ledger, self.memory, self.tail, lambda: self.clock(), self.uses.append)

    def follow(self) -> None:
        self.tail.step(wait_ms=1)

    def code(self, token: str, *scopes: str, workspace: str | None = None) -> str:
        return self.verify(token, scopes, workspace).code


FRESH_S = 60.0  # longer than a busy machine stands still


@pytest.fixture(autouse=True)
def _current_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (currency, verification):
        monkeypatch.setattr(module, "FRESH_S", FRESH_S)


@pytest.fixture
def process(fake_store: Redis) -> Process:
    made = Process(fake_store)
    made.follow()
    return made


def created(commands: KeyCommands, **fields: object) -> tuple[CommandResult, str]:
    done = commands.create(principal(), new_key(name="Web", **fields), REQUEST)  # type: ignore[arg-type]
    assert done.api_key
    return done, done.api_key.reveal()


def reject_reads(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise StoreConnectionError("away")

    monkeypatch.setattr(process.ledger, "history", away)


def test_each_state_of_a_key_has_its_code_in_order_of_precedence(
    process: Process, commands: KeyCommands
) -> None:
    done, token = created(commands, scopes=("a",), expires_at=now() + 1_000)
    key_id = done.key.id

    def codes() -> tuple[str, str]:
        process.follow()
        return process.code(token, "b"), process.code(token, "b", workspace="other")

    assert process.code(token, "a") == "VALID"
    assert codes() == ("INSUFFICIENT_SCOPES", "NOT_FOUND")
    process.clock = lambda: now() + 1_000
    assert codes() == ("EXPIRED", "NOT_FOUND")
    commands.change(principal(), key_id, OFF, REQUEST)
    assert codes() == ("DISABLED", "NOT_FOUND")
    commands.revoke(principal(), key_id, "leaked", REQUEST)
    assert codes() == ("REVOKED", "NOT_FOUND")
    wrong = ("0" if token[-10] != "0" else "1").join((token[:-10], token[-9:-6]))
    assert process.code(wrong + checksum(wrong), "b") == "NOT_FOUND"
    assert process.code(wrong + token[-6:], "b") == "MALFORMED"


@pytest.mark.parametrize("follows", [True, False])
def test_setting_the_clock_back_does_not_revive_an_expired_key(
    fake_store: Redis, commands: KeyCommands, follows: bool
) -> None:
    _, token = created(commands, expires_at=now() - 1_000)
    process = Process(fake_store)  # its tail begins at the last event, or comes to it
    if follows:
        process.follow()
    created(commands)
    process.follow()
    process.clock = lambda: now() - 3_600_000
    assert process.code(token) == "EXPIRED"


@pytest.mark.parametrize("text", ["", "x", "kl_", "kl_\ud800", "é" * 60, "a" * 50, "kl_" + "0" * 50])
def test_malformed_text_is_reported_without_reading_the_ledger(
    process: Process, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    reject_reads(process, monkeypatch)
    assert process.code(text) == "MALFORMED"


def test_a_rotated_secret_is_valid_until_its_grace_period_ends(
    process: Process, commands: KeyCommands
) -> None:
    done, first = created(commands)
    second = commands.rotate(principal(), done.key.id, 60, REQUEST).api_key
    assert second
    process.follow()
    assert [process.code(first), process.code(second.reveal())] == ["VALID", "VALID"]
    process.clock = lambda: now() + 60_000
    assert [process.code(first), process.code(second.reveal())] == ["EXPIRED", "VALID"]
    third = commands.rotate(principal(), done.key.id, 60, REQUEST).api_key
    process.follow()
    assert third
    assert [process.code(first), process.code(third.reveal())] == ["NOT_FOUND", "VALID"]


def test_a_verdict_comes_from_the_cache_while_the_cache_is_fresh(
    process: Process, commands: KeyCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = created(commands)
    process.follow()
    assert process.code(token) == "VALID"
    reject_reads(process, monkeypatch)
    assert process.code(token) == "VALID"
    process.tail.subscription.caught_up_at = time.monotonic() - FRESH_S - 0.001
    with pytest.raises(StoreConnectionError):
        process.code(token)


def test_a_process_paused_during_a_verdict_reads_the_key_again(
    process: Process, commands: KeyCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if its cache invalidator has caught up again before the verdict is returned."""
    done, token = created(commands)
    process.follow()
    assert process.code(token) == "VALID"
    running = time.monotonic

    def stopped() -> int:
        process.clock = now
        commands.change(principal(), done.key.id, OFF, REQUEST)
        monkeypatch.setattr(time, "monotonic", lambda: running() + 2 * FRESH_S)
        process.follow()
        assert process.tail.fresh_until > time.monotonic()
        return now()

    process.clock = stopped
    assert process.code(token) == "DISABLED"


def test_a_change_takes_effect_when_the_invalidator_has_seen_its_event(
    process: Process, commands: KeyCommands
) -> None:
    done, token = created(commands)
    for command, code in ((OFF, "DISABLED"), (ON, "VALID")) * 3:
        commands.change(principal(), done.key.id, command, REQUEST)
        process.follow()
        verdict = process.verify(token)
        assert (verdict.code, verdict.position) == (code, process.tail.position)


def test_an_unknown_key_is_found_after_it_is_created(
    process: Process, commands: KeyCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = count()
    token = "kl_" + "0" * 44
    token += checksum(token)
    assert process.code(token) == "NOT_FOUND"
    assert process.memory.find("0" * 12) is UNKNOWN
    made = ApiKey(token, "kl", "0" * 12)
    monkeypatch.setattr("services.keys.commands.mint", lambda *_: made if next(ids) == 0 else None)
    commands.create(principal(), new_key(name="Late"), REQUEST)
    process.follow()
    assert process.code(token) == "VALID"


class _Overtaken(KeyCache):
    """Runs a callback between reading the ledger and caching the result."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def load(self, key_id: str, read: Callable[[str], CachedKey]) -> CachedKey:
        def then(key_id: str) -> CachedKey:
            standing = read(key_id)
            happen, self.meanwhile = self.meanwhile, lambda: None
            happen()
            return standing

        return super().load(key_id, then)


class _Unguarded(_Overtaken):
    """The same without the guard: events don't affect loads in progress."""

    def forget(self, key_id: str) -> None:
        self._known.pop(key_id, None)

    def clear(self) -> None:
        self._known.clear()


@pytest.mark.parametrize(
    ("memory", "then"), [(_Overtaken, "DISABLED"), (_Unguarded, "VALID")], ids=["guarded", "unguarded"]
)
@pytest.mark.parametrize("unreadable", [False, True], ids=["its own event", "one of nobody knows what"])
def test_a_slow_load_does_not_overwrite_a_newer_event(
    fake_store: Redis, commands: KeyCommands, memory: type[_Overtaken], then: str, unreadable: bool
) -> None:
    """Without the guard the race gives a stale VALID for as long as the key has no other event."""
    forced = memory(100)
    process = Process(fake_store, forced)
    done, token = created(commands)
    process.follow()

    def overtake() -> None:
        commands.change(principal(), done.key.id, OFF, REQUEST)
        if unreadable:
            process.memory.clear()
        process.follow()

    forced.meanwhile = overtake
    process.code(token)
    process.follow()
    assert process.code(token) == then


def test_an_event_with_an_unreadable_subject_clears_the_cache(
    process: Process, commands: KeyCommands, fake_store: Redis
) -> None:
    _, token = created(commands)
    process.follow()
    process.verify(token)
    assert len(process.memory) == 1
    fake_store.xadd(LOG, {"at": 1, "event": b"\xff"}, id="0-*")
    process.follow()
    assert len(process.memory) == 0


def test_a_key_with_an_unreadable_history_gets_no_verdict(
    process: Process, commands: KeyCommands, fake_store: Redis
) -> None:
    done, token = created(commands)
    process.follow()
    assert process.code(token) == "VALID"
    known = process.ledger.read(0, 1)[0].body
    strange = known.replace(b'"KeyCreated"', b'"KeyBlessed"').replace(b'"version":1', b'"version":2')
    fake_store.xadd(LOG, {"at": 1, "event": strange}, id="0-*")
    fake_store.rpush(f"{{kl:0}}:subject:key:{done.key.id}", 2)
    process.follow()
    for _ in range(2):
        with pytest.raises(UnreadableEventError):
            process.code(token)


def test_the_cache_starts_over_when_the_ledger_went_backwards(
    process: Process, commands: KeyCommands, fake_store: Redis
) -> None:
    done, token = created(commands)
    commands.change(principal(), done.key.id, OFF, REQUEST)
    process.follow()
    assert process.code(token) == "DISABLED"
    fake_store.xdel(LOG, "0-2")
    fake_store.rpop(f"{{kl:0}}:subject:key:{done.key.id}")
    process.follow()
    assert len(process.memory) == 0
    assert process.tail.fresh_until < time.monotonic()
    process.follow()
    assert process.tail.fresh_until > time.monotonic()
    assert process.code(token) == "VALID"


def test_the_cache_is_not_fresh_while_the_store_is_unavailable(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()

    def away(*_: object) -> None:
        stop.set()
        raise StoreConnectionError("away")

    assert process.tail.fresh_until > time.monotonic()
    monkeypatch.setattr(process.ledger, "tail", away)
    process.tail.run(stop)
    assert process.tail.fresh_until < time.monotonic()


def test_a_verdict_is_at_least_as_recent_as_the_requested_position(
    process: Process, commands: KeyCommands
) -> None:
    done, token = created(commands)
    assert process.verify(token).code == "VALID"
    off = commands.change(principal(), done.key.id, OFF, REQUEST)
    # The invalidator hasn't caught up yet, so the cache is behind.
    assert process.code(token) == "VALID"
    verdict = process.verify(token, min_position=off.position)
    assert (verdict.code, verdict.position) == ("DISABLED", off.position)
    with pytest.raises(BehindError) as raised:
        process.verify(token, min_position=off.position + 1)
    assert raised.value.head == off.position


def test_the_cache_is_bounded_and_guesses_evict_no_keys(fake_store: Redis, commands: KeyCommands) -> None:
    process = Process(fake_store, KeyCache(10))
    process.follow()
    tokens = [created(commands)[1] for _ in range(12)]
    process.follow()
    for token in tokens:
        process.verify(tokens[0])
        process.verify(token)
    assert len(process.memory) == 10
    for number in range(50):
        guess = f"kl_{number:012d}{'0' * 32}"
        assert process.code(guess + checksum(guess)) == "NOT_FOUND"
    assert len(process.memory) == 10
    assert process.memory.find(tokens[0][3:15]) is not None
    assert process.memory.find(tokens[1][3:15]) is None


def test_cached_keys_share_equal_scopes_and_workspaces_in_memory(
    commands: KeyCommands, ledger: Ledger
) -> None:
    standings = [
        cached_key(ledger.history(f"key:{created(commands, scopes=('a', 'b'))[0].key.id}")) for _ in "12"
    ]
    assert standings[0].scopes is standings[1].scopes
    assert standings[0].workspace is standings[1].workspace


def test_usage_is_recorded_only_for_existing_keys_in_the_right_workspace(
    process: Process, commands: KeyCommands
) -> None:
    done, token = created(commands)
    process.follow()
    process.code(token)
    process.code(token, "b")
    process.code(token, workspace="other")
    process.code("nonsense")
    assert [use[:2] for use in process.uses] == [(done.key.id, "VALID"), (done.key.id, "INSUFFICIENT_SCOPES")]


def test_a_key_authenticates_its_bearer_until_it_is_revoked(process: Process, commands: KeyCommands) -> None:
    done, token = created(commands, scopes=("a",))
    authenticate = KeyAuthenticator(process.verify)
    process.follow()
    bearer = authenticate(token)
    assert (bearer.kind, bearer.id, bearer.label, bearer.workspace) == ("key", done.key.id, "Web", "default")
    assert bearer.scopes == {"a"}
    commands.revoke(principal(), done.key.id, None, REQUEST)
    process.follow()
    with pytest.raises(UnauthenticatedError, match="revoked"):
        authenticate(token)


@pytest.mark.parametrize(("name", "sent"), [("default", "default"), ("größe\n", "gr%C3%B6%C3%9Fe%0A")])
def test_any_workspace_name_is_encoded_to_fit_a_header(
    process: Process, commands: KeyCommands, name: str, sent: str
) -> None:
    done = commands.create(principal(name), new_key(name="Web"), REQUEST)
    assert done.api_key
    calls = VerdictEndpoints(process.verify, KeyAuthenticator(process.verify))
    asked = {"QUERY_STRING": "", "HTTP_AUTHORIZATION": f"bearer {done.api_key.reveal()}"}
    assert dict(calls.forward_auth(RequestContext(asked)).headers)["X-Keyledger-Workspace"] == sent


def test_scopes_are_encoded_to_fit_a_header_and_stay_separate(
    process: Process, commands: KeyCommands
) -> None:
    _, token = created(commands, scopes=("orders:read", "a\r\nX-Evil: 1", "é", "b c", "100%"))
    calls = VerdictEndpoints(process.verify, KeyAuthenticator(process.verify))
    answer = calls.forward_auth(gateway("", token))
    sent = dict(answer.headers)["X-Keyledger-Scopes"]
    assert sent == "orders:read a%0D%0AX-Evil%3A%201 %C3%A9 b%20c 100%25"


def gateway(query: str, token: str) -> RequestContext:
    """A request to forward-auth."""
    return RequestContext({"QUERY_STRING": query, "HTTP_AUTHORIZATION": f"Bearer {token}"})


def plain(body: bytes, token: str = "") -> RequestContext:
    """A request that the fast path may answer."""
    return RequestContext(
        {
            "REQUEST_METHOD": "POST",
            "QUERY_STRING": "",
            "CONTENT_TYPE": "application/json",
            "HTTP_AUTHORIZATION": f"Bearer {token}",
            BODY: body,
        }
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"api_key":"%b","scopes":["nope"],"scopes":[]}',
        b'{"api_key":"%b","scopes":["nope"], "scopes" : []}',
        b'{"api_key":"x","api_key":"%b"}',
        b'{"api_key":"x","api_\\u006bey":"%b"}',
        b'{"api_key":"%b","scopes":["nope"],"\\u0073copes":[]}',
    ],
)
def test_the_fast_path_declines_to_verify_a_body_with_duplicate_fields(
    process: Process, commands: KeyCommands, body: bytes
) -> None:
    _, token = created(commands, scopes=(KEYS_VERIFY,))
    calls = VerdictEndpoints(process.verify, KeyAuthenticator(process.verify))
    assert calls.verify(plain(body % token.encode(), token)) is None
    answer = calls.verify(plain(b'{"api_key":"%b","scopes":[]}' % token.encode(), token))
    assert answer
    assert b'"code":"VALID"' in answer.body


def test_the_fast_path_declines_to_create_a_key_from_duplicate_fields(commands: KeyCommands) -> None:
    create = CreateEndpoint(commands, lambda _: principal(), Limits(None))
    assert create(plain(b'{"name":"a","scopes":[],"scopes":["keyledger:admin"]}', "x")) is None
    answer = create(plain(b'{"name":"a","scopes":["keyledger:admin"]}', "x"))
    assert answer
    assert answer.status == "201 CREATED"


UNREADABLE_RULES = [
    ("scope=a", "scope"),
    ("scopes[]=a", "scopes[]"),
    ("scopes%5B%5D=a", "scopes[]"),
    ("SCOPES=a", "SCOPES"),
    ("Workspace=default", "Workspace"),
    ("scopes", "scopes"),
    ("scopes=", "scopes"),
    ("scopes=+", "scopes"),
    ("scopes=%20,%09,", "scopes"),
    ("scopes=a&scopes=b", "scopes"),
    ("scopes=a&scopes=a", "scopes"),
    ("scopes=a&%73copes=b", "scopes"),
    ("scopes=a;workspace=default", "scopes"),
    ("scopes=A", "scopes"),
    ("scopes=a%00", "scopes"),
    ("scopes=%FF", "scopes"),
    ("scopes=keyledger:everything", "scopes"),
    ("scopes=" + ",".join(f"s{number}" for number in range(51)), "scopes"),
    ("workspace=", "workspace"),
    ("workspace=+", "workspace"),
    ("workspace=Default", "workspace"),
    ("workspace=%0d%0a", "workspace"),
    ("workspace=default&workspace=default", "workspace"),
    ("scopes=a&", ""),
    ("&", ""),
    ("=a", ""),
    ("scopes=a&debug=1", "debug"),
    ("kl_" + "a1B2" * 12 + "=", "…"),
    ("x-" * 100, "x-" * 25),
]


@pytest.mark.parametrize(("query", "name"), UNREADABLE_RULES)
def test_forward_auth_rejects_an_invalid_rule_and_names_the_parameter(
    process: Process, commands: KeyCommands, query: str, name: str
) -> None:
    _, token = created(commands, scopes=("a", "b"))
    calls = VerdictEndpoints(process.verify, KeyAuthenticator(process.verify))
    for _ in range(2):  # the second time, what was read before may come from a cache
        with pytest.raises(InvalidParameterError) as refused:
            calls.forward_auth(gateway(query, token))
        assert refused.value.name == name
        assert "a1B2" not in str(refused.value)


def test_a_key_pasted_as_a_scope_is_not_repeated_in_the_error(
    process: Process, commands: KeyCommands
) -> None:
    _, token = created(commands)
    calls = VerdictEndpoints(process.verify, KeyAuthenticator(process.verify))
    with pytest.raises(InvalidParameterError) as refused:
        calls.forward_auth(gateway(f"scopes={token}", token))
    assert token not in str(refused.value)


def test_a_rotated_secret_authenticates_as_rotated_until_the_next_rotation(
    process: Process, commands: KeyCommands
) -> None:
    done, old = created(commands)
    rotated = commands.rotate(principal(), done.key.id, 60, REQUEST)
    assert rotated.api_key
    process.follow()
    authenticate = KeyAuthenticator(process.verify)
    assert authenticate(old).rotated_secret
    assert not authenticate(rotated.api_key.reveal()).rotated_secret
    assert (process.code(old), process.code(rotated.api_key.reveal())) == ("VALID", "VALID")
    commands.rotate(principal(), done.key.id, 60, REQUEST)
    process.follow()
    with pytest.raises(UnauthenticatedError):
        authenticate(old)
