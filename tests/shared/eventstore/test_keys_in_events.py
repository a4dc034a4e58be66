"""No complete key is stored in the ledger, in any field of any event or its envelope."""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from shared.errors import InvalidFieldError
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Actor, ActorKind, NewEvent, Request, enveloped
from shared.eventstore.events import KeyCreated, KeyToggled
from shared.eventstore.payload import Mark, Payload, marks
from shared.text.key_detection import holds_key
from shared.web.server.context import RequestContext
from tests.shared.text.test_tokens import DISGUISES, TOKEN
from tests.support.every_event import payloads, types_of, unmarked

CANARIES = [disguise(TOKEN) for disguise in DISGUISES.values()]
ACTOR = Actor(kind="account", id="account:ann@example.org", label="ann@example.org")
REQUEST = Request(id="r1", ip="192.0.2.7", user_agent="curl/8.7.1")
PLAIN: dict[Any, Any] = {str: "plain", int: 1, bool: True}


def planted(kind: Any, canary: str) -> Iterator[Any]:
    """Values of a type with a canary in one of their strings, each in a different one."""
    kind = unmarked(kind)
    origin, of = get_origin(kind), get_args(kind)
    if kind is str:
        yield canary
    elif get_origin(kind) in {types.UnionType, Union}:
        for each in of:
            yield from planted(each, canary)
    elif origin is tuple:
        yield from ((plain(of[0]), value) for value in planted(of[0], canary))
    elif origin is dict:
        yield from ({"q": value} for value in planted(of[1], canary))
        yield from ({name: "plain"} for name in planted(of[0], canary))
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for name, field in types_of(kind).items():
            yield from (msgspec.structs.replace(plain(kind), **{name: v}) for v in planted(field, canary))


def plain(kind: Any) -> Any:
    """A value of a type."""
    kind = unmarked(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) in {types.UnionType, Union}:
        return plain(get_args(kind)[0])
    if get_origin(kind) in {tuple, dict}:
        return get_origin(kind)()
    if get_args(kind) == get_args(ActorKind):
        return "account"
    return kind(**{name: plain(field) for name, field in types_of(kind).items()})


def append(payload: Payload, **changed: Any) -> NewEvent:
    envelope: dict[str, Any] = {
        "subject": "key:3fA9bQ27LmZ0",
        "after_version": 0,
        "workspace": "default",
        "actor": ACTOR,
        "request": REQUEST,
        "new_id": lambda: "event-1",
    }
    return enveloped([payload], **envelope | changed)[0]


def attempt(payload: Payload) -> NewEvent | InvalidFieldError:
    """The event, or the error that rejected it."""
    try:
        return append(payload)
    except InvalidFieldError as error:
        return error


def texts(value: Any) -> Iterator[str]:
    """All strings in a stored value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (name, *texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def is_clean(event: NewEvent) -> bool:
    stored = encode(event)
    return TOKEN[12:40].encode() not in stored and not any(map(holds_key, texts(msgspec.json.decode(stored))))


@pytest.mark.parametrize("kind", payloads(), ids=lambda kind: kind.__name__)
def test_every_field_of_an_event_rejects_or_redacts_a_key(kind: type[Payload]) -> None:
    tried = 0
    for canary in CANARIES:
        for payload in planted(kind, canary):
            tried += 1
            outcome = attempt(payload)
            if isinstance(outcome, NewEvent):
                assert any(Mark.REPEATED in of for of in marks(kind).values())
                assert is_clean(outcome)
            else:
                assert outcome.field.replace("_", " ") in str(outcome)
                assert TOKEN[12:40] not in str(outcome)
    assert tried or not any("str" in str(field) for field in types_of(kind).values())


def test_a_key_split_across_the_fields_of_an_event_is_rejected() -> None:
    payload = KeyCreated(
        name=TOKEN[:19],
        description=f"{TOKEN[19:36]} {TOKEN[36:]}",
        prefix="kl",
        hint="kl_3fA9…x7Qz",
        digest="0" * 64,
        scopes=("orders:read",),
        expires_at=None,
    )
    with pytest.raises(InvalidFieldError, match="together with other fields") as refused:
        append(payload)
    assert refused.value.field == "description"
    assert append(msgspec.structs.replace(payload, description="orders")).data.name == TOKEN[:19]


@pytest.mark.parametrize("canary", CANARIES, ids=DISGUISES)
def test_a_key_is_removed_from_the_request_and_actor_of_an_event(canary: str) -> None:
    payload = KeyToggled(enabled=True, reason="")
    for request in planted(Request, canary):
        assert is_clean(append(payload, request=request))
    for actor in planted(Actor, canary):
        assert is_clean(append(payload, actor=actor))


@pytest.mark.parametrize("canary", CANARIES, ids=DISGUISES)
def test_a_key_is_rejected_as_a_workspace_and_in_an_email(canary: str) -> None:
    payload = KeyToggled(enabled=True, reason="")
    with pytest.raises(InvalidFieldError) as refusal:
        append(payload, workspace=canary)
    assert refusal.value.field == "workspace"
    with pytest.raises(InvalidFieldError) as refusal:
        append(payload, subject=f"account:{canary}@example.org")
    assert refusal.value.field == "email"


@pytest.mark.parametrize("before", [0, 240, 255, 290, 298])
@pytest.mark.parametrize("canary", [TOKEN, DISGUISES["percent-encoded twice"](TOKEN)])
def test_keys_are_removed_from_a_user_agent_before_it_is_truncated(before: int, canary: str) -> None:
    user_agent = ("agent/1.0 " * 30)[:before] + canary + " more" * 20
    kept = RequestContext({"HTTP_USER_AGENT": user_agent, "REMOTE_ADDR": "192.0.2.7"}).origin.user_agent
    assert kept
    assert len(kept) <= 300
    assert TOKEN[8:14] not in kept
    assert canary[20:30] not in kept


def test_a_key_in_a_user_agent_is_replaced_by_an_ascii_hint() -> None:
    kept = RequestContext({"HTTP_USER_AGENT": f"agent {TOKEN}"}).origin.user_agent
    assert kept == f"agent kl_{TOKEN[3:7]}..."


def test_a_key_is_not_accepted_as_a_request_id() -> None:
    for name in (TOKEN, TOKEN[-38:], TOKEN[-39:]):
        assert name[-24:-8] not in RequestContext({"HTTP_X_REQUEST_ID": name}).id
    assert RequestContext({"HTTP_X_REQUEST_ID": "checkout-42", "REMOTE_ADDR": ""}).origin.id == "checkout-42"


def test_an_existing_account_or_workspace_that_resembles_a_key_stays_usable() -> None:
    payload = KeyToggled(enabled=True, reason="")
    assert append(payload, subject=f"account:{TOKEN}@example.org", after_version=1).version == 2
    workspace = "org_" + "a" * 55
    assert append(payload, workspace=workspace).workspace == workspace


def test_an_event_without_a_key_is_left_unchanged() -> None:
    payload = KeyToggled(enabled=True, reason="commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b broke it")
    event = append(payload)
    assert event.data is payload
    assert (event.actor, event.request) == (ACTOR, REQUEST)
