"""The envelope of every event: its subject, version, actor and request."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from shared.eventstore.payload import Payloads
from shared.eventstore.redaction import check_subject, check_workspace, without_keys

ActorKind: TypeAlias = Literal["account", "key", "operator", "anonymous"]
_PLAIN_QUOTES = str.maketrans("‹›", "<>")


class Actor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who did it. `label` is for people: an e-mail address, or the name of a key.

    The id and the label of a caller who didn't sign in are the IP address.
    """

    kind: ActorKind
    id: str
    label: str


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request that caused it. The command line has neither an IP address nor a user agent."""

    id: str
    ip: str | None
    user_agent: str | None


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event before the ledger assigns its position and time. This is the stored form."""

    id: str
    type: str
    schema: int
    subject: str
    version: int  # of the subject after this event; the first is 1
    workspace: str
    actor: Actor
    request: Request
    data: Any  # the Payload


class Event(NewEvent, frozen=True, kw_only=True):
    """An event of the ledger."""

    position: int
    at: int  # ms since 1970, stamped by the ledger


class StoredEvent(NewEvent, frozen=True, kw_only=True):
    """An envelope whose data isn't decoded: its type or schema may be unknown to this version."""

    data: msgspec.Raw


class Record(NamedTuple):
    """An event as the ledger holds it: its position, its time, and its canonical bytes."""

    position: int
    at: int
    body: bytes


class UnreadableEventError(Exception):
    """This version of the code doesn't understand an event. Its readers must not guess."""

    def __init__(self, position: int, subject: str | None, reason: str) -> None:
        super().__init__(f"event at position {position} of {subject or 'an unknown subject'}: {reason}")
        self.position = position
        self.subject = subject
        self.reason = reason


def enveloped(
    payloads: Payloads,
    *,
    subject: str,
    after_version: int,
    workspace: str,
    actor: Actor,
    request: Request,
    new_id: Callable[[], str],
) -> list[NewEvent]:
    """The events that follow a subject's version `after_version`, ready to be appended.

    None of them holds an API key or most of one. Raises InvalidFieldError if one was typed into a field; it
    is removed from what an event only repeats, such as the user agent.
    """
    if after_version == 0:  # later events must not fail because of the subject's name
        check_subject(subject)
    check_workspace(workspace)
    payloads, actor, request = without_keys(payloads, actor, request)
    return [
        NewEvent(
            id=new_id(),
            type=payload.TYPE,
            schema=payload.SCHEMA,
            subject=subject,
            version=version,
            workspace=workspace,
            actor=actor,
            request=request,
            data=payload,
        )
        for version, payload in enumerate(payloads, after_version + 1)
    ]


def recorded(event: NewEvent, position: int, at: int) -> Event:
    """The event as the ledger holds it after it was appended."""
    return Event(**msgspec.structs.asdict(event), position=position, at=at)


def actor_name(label: str, kind: str | None) -> str:
    """An actor for people to read: the e-mail address of an account, any other with its kind, `key ‹ci›`.

    A key can't pass for an account, whatever its name is: a name can't end the quotes.
    """
    return label if kind == "account" else f"{kind or 'unknown'} ‹{label.translate(_PLAIN_QUOTES)}›"
