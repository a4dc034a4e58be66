"""The events: their classes, their envelope and their codec. The only contract between the services."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from shared.clock import printable_time
from shared.errors import InvalidFieldError
from shared.text.key_detection import holds_key, holds_spread_key, refusal, without_keys


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happened, in the past tense. Its type name is permanent, and is never a class path.

    Times are integers, milliseconds since 1970 in UTC; there are no floats, so that the canonical form
    of RFC 8785 is plain JSON with sorted names. A time that cannot be printed is read as the nearest one
    that can: nothing writes one now, but a ledger may hold one, and all that is read of it must be shown.
    """

    TYPE: ClassVar[str]
    SCHEMA: ClassVar[int]
    # The fields that nobody types for this event, but that repeat what was said elsewhere. A key in one of
    # them is removed; in any other it is refused.
    REPEATED: ClassVar[frozenset[str]] = frozenset()

    def upcast(self) -> "Payload":
        """The same fact in its type's present form; a form that is no longer written makes one."""
        return self


_T = TypeVar("_T", bound=msgspec.Struct)


def _printable(struct: _T, name: str) -> _T:
    """The struct with a time that can be printed."""
    at = getattr(struct, name)
    if at is None or (shown := printable_time(at)) == at:
        return struct
    return msgspec.structs.replace(struct, **{name: shown})


class KeyCreated(Payload, frozen=True, kw_only=True):
    """A key came to be. `digest` is the SHA-256 of the whole token in hex; the token itself is nowhere."""

    TYPE: ClassVar[str] = "KeyCreated"
    SCHEMA: ClassVar[int] = 1

    name: str
    description: str
    prefix: str
    hint: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: int | None

    def upcast(self) -> "KeyCreated":
        """The same, to be shown."""
        return self if self.expires_at is None else _printable(self, "expires_at")


class KeyToggled(Payload, frozen=True, kw_only=True):
    """A key was switched on or off. Without a reason, that is empty, like every text that was not given."""

    TYPE: ClassVar[str] = "KeyToggled"
    SCHEMA: ClassVar[int] = 2

    enabled: bool
    reason: str


class KeyToggled1(Payload, frozen=True, kw_only=True):
    """The same as it was first stored, when no reason was null."""

    TYPE: ClassVar[str] = "KeyToggled"
    SCHEMA: ClassVar[int] = 1

    enabled: bool
    reason: str | None

    def upcast(self) -> KeyToggled:
        """The present form."""
        return KeyToggled(enabled=self.enabled, reason=self.reason or "")


class KeyDetails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people and services may change of a key, but for its switch."""

    name: str
    description: str
    scopes: tuple[str, ...]
    expires_at: int | None


class KeyDetailsChanged(Payload, frozen=True, kw_only=True):
    """A key's details were others. Both are told, so that the event alone says what changed."""

    TYPE: ClassVar[str] = "KeyDetailsChanged"
    SCHEMA: ClassVar[int] = 1
    REPEATED: ClassVar[frozenset[str]] = frozenset({"before"})

    before: KeyDetails
    after: KeyDetails
    reason: str

    def upcast(self) -> "KeyDetailsChanged":
        """The same, to be shown."""
        before, after = (_printable(details, "expires_at") for details in (self.before, self.after))
        if before is self.before and after is self.after:
            return self
        return msgspec.structs.replace(self, before=before, after=after)


class KeyRotated(Payload, frozen=True, kw_only=True):
    """A key got a new secret under its old id. The old one is good until `previous_expires_at`, no longer."""

    TYPE: ClassVar[str] = "KeyRotated"
    SCHEMA: ClassVar[int] = 1

    prefix: str
    hint: str
    digest: str
    previous_expires_at: int

    def upcast(self) -> "KeyRotated":
        """The same, to be shown."""
        return _printable(self, "previous_expires_at")


class KeyRevoked(Payload, frozen=True, kw_only=True):
    """A key is good no longer, for ever."""

    TYPE: ClassVar[str] = "KeyRevoked"
    SCHEMA: ClassVar[int] = 1

    reason: str


class AccountAdded(Payload, frozen=True, kw_only=True):
    """A person may sign in. The address is the subject; the password's hash lies apart from the log."""

    TYPE: ClassVar[str] = "AccountAdded"
    SCHEMA: ClassVar[int] = 1

    role: str


class AccountRoleChanged(Payload, frozen=True, kw_only=True):
    """A person may do other things than before."""

    TYPE: ClassVar[str] = "AccountRoleChanged"
    SCHEMA: ClassVar[int] = 1

    before: str
    after: str


class AccountDisabled(Payload, frozen=True, kw_only=True):
    """A person may not sign in any more, and is signed out everywhere."""

    TYPE: ClassVar[str] = "AccountDisabled"
    SCHEMA: ClassVar[int] = 1

    reason: str


class AccountEnabled(Payload, frozen=True, kw_only=True):
    """A person may sign in again."""

    TYPE: ClassVar[str] = "AccountEnabled"
    SCHEMA: ClassVar[int] = 1


class PasswordChanged(Payload, frozen=True, kw_only=True):
    """An account has another password, and whoever is signed in with the old one is so no longer.

    The actor says whether the person chose it, or somebody else, for a first sign-in with it.
    """

    TYPE: ClassVar[str] = "PasswordChanged"
    SCHEMA: ClassVar[int] = 1


class SignedOutEverywhere(Payload, frozen=True, kw_only=True):
    """All sessions of an account ended."""

    TYPE: ClassVar[str] = "SignedOutEverywhere"
    SCHEMA: ClassVar[int] = 1


class SignedIn(Payload, frozen=True, kw_only=True):
    """A person signed in."""

    TYPE: ClassVar[str] = "SignedIn"
    SCHEMA: ClassVar[int] = 1


class SignInFailed(Payload, frozen=True, kw_only=True):
    """Somebody tried to sign in, and could not: so often since the event of this kind before it.

    The subject is the account, or the network address where no account is known by what was typed.
    """

    TYPE: ClassVar[str] = "SignInFailed"
    SCHEMA: ClassVar[int] = 1

    attempts: int


class AccessDenied(Payload, frozen=True, kw_only=True):
    """A known caller asked for what it may not, so often since the event of this kind before it."""

    TYPE: ClassVar[str] = "AccessDenied"
    SCHEMA: ClassVar[int] = 1
    REPEATED: ClassVar[frozenset[str]] = frozenset({"scope"})

    scope: str
    attempts: int


class AuditExported(Payload, frozen=True, kw_only=True):
    """Somebody took entries of the audit log away. `filters` are those that they asked for, by name."""

    TYPE: ClassVar[str] = "AuditExported"
    SCHEMA: ClassVar[int] = 1
    REPEATED: ClassVar[frozenset[str]] = frozenset({"filters"})

    format: str
    filters: dict[str, str]
    position: int  # how far the log went


class AuditFinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was wrong with the audit log: which kind, how often, and the first at fault, in words."""

    kind: str
    count: int
    position: int
    detail: str


class AuditChecked(Payload, frozen=True, kw_only=True):
    """Somebody went through the whole audit log; nothing was wrong, or what the findings say."""

    TYPE: ClassVar[str] = "AuditChecked"
    SCHEMA: ClassVar[int] = 1
    REPEATED: ClassVar[frozenset[str]] = frozenset({"findings"})

    entries: int
    checkpoints: int
    position: int  # how far the log went
    findings: tuple[AuditFinding, ...]


_PAYLOADS: dict[str, type[Payload]] = {
    payload.TYPE: payload
    for payload in (
        KeyCreated,
        KeyToggled,
        KeyDetailsChanged,
        KeyRotated,
        KeyRevoked,
        AccountAdded,
        AccountRoleChanged,
        AccountDisabled,
        AccountEnabled,
        PasswordChanged,
        SignedOutEverywhere,
        SignedIn,
        SignInFailed,
        AccessDenied,
        AuditExported,
        AuditChecked,
    )
}

EVENT_TYPES: tuple[str, ...] = tuple(_PAYLOADS)

# The forms that are still read and no longer written. A new form of a type takes the class's name, and the
# old one goes here under a name with its number; what is stored stays as it is.
_OLDER_FORMS: tuple[type[Payload], ...] = (KeyToggled1,)


# How the ledger names what events are about.
KEY_SUBJECT = "key:"
ACCOUNT_SUBJECT = "account:"
# What comes often is told apart from what a key or an account is folded from, which is so short for ever.
SIGN_IN_SUBJECT = "sign-in:"  # then an e-mail address
ADDRESS_SUBJECT = "address:"  # then a network address
ACCESS_SUBJECT = "access:"  # then the kind and the id of a caller
AUDIT_SUBJECT = "audit:"  # then what was done with the audit log

ActorKind: TypeAlias = Literal["account", "key", "operator", "anonymous"]


class Actor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who did it. `label` is what a person reads: an address, or the name of a key.

    Of somebody who did not sign in, id and label are the network address.
    """

    kind: ActorKind
    id: str
    label: str


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By what call it was done; the command line has neither address nor user agent."""

    id: str
    ip: str | None
    user_agent: str | None


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event before the ledger has given it a position and a time: what is stored of it."""

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
    """An envelope whose data is not looked into: it may be of a type or a form that nobody here knows."""

    data: msgspec.Raw


class _StoredName(msgspec.Struct, frozen=True):
    """The least that must be read of an event to say which it is."""

    id: str
    subject: str


class Record(NamedTuple):
    """An event as the ledger holds it: its position, its time, and its canonical bytes."""

    position: int
    at: int
    body: bytes


class UnreadableEventError(Exception):
    """This version of the code does not understand an event; whoever met it must not guess."""

    def __init__(self, position: int, subject: str | None, reason: str) -> None:
        super().__init__(f"event at position {position} of {subject or 'an unknown subject'}: {reason}")
        self.position = position
        self.subject = subject
        self.reason = reason


Payloads: TypeAlias = Sequence[Payload]


_COMPUTED = frozenset({"prefix", "hint", "digest"})
_PLAIN_NAME = re.compile(
    r"(?!.*(?:[2-7][0-9a-f]){20})[a-z0-9._-]*"
)  # no key: it has capitals, encoded or not


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

    No whole API key gets into one, nor most of one. Raises InvalidFieldError if one was typed into a field;
    in what an event only repeats, as the user agent, it is removed.
    """
    if after_version == 0:  # of one that there is, what happens to it must not fail for its name
        _refuse_keys(subject, "email" if subject.startswith(ACCOUNT_SUBJECT) else "subject")
    if not _PLAIN_NAME.fullmatch(workspace):
        _refuse_keys(workspace, "workspace")
    actor, request = _without_keys(actor), _without_keys(request)
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
            data=_kept(payload),
        )
        for version, payload in enumerate(payloads, after_version + 1)
    ]


def _kept(payload: Payload) -> Payload:
    """The fact as it may be kept. Raises InvalidFieldError."""
    if not _holds_key(payload):
        _refuse_keys_across(payload)
        return payload
    for name in payload.__struct_fields__:
        value = getattr(payload, name)
        if not _holds_key(value):
            continue
        if name not in payload.REPEATED:
            _refuse_keys(value, name)
        payload = msgspec.structs.replace(payload, **{name: _without_keys(value)})
    return payload


def _refuse_keys(value: object, name: str) -> None:
    """Raises InvalidFieldError, with the name of the innermost field that holds a key."""
    if isinstance(value, msgspec.Struct):
        for inner in value.__struct_fields__:
            _refuse_keys(getattr(value, inner), inner)
    elif _holds_key(value):
        text = next(filter(holds_key, _texts(value)))
        raise InvalidFieldError(name, refusal(f"The {name.replace('_', ' ')}", text))


def _refuse_keys_across(payload: Payload) -> None:
    """Raises InvalidFieldError if a key is spread over several of the fields that people type."""
    names = [name for name in payload.__struct_fields__ if name not in payload.REPEATED | _COMPUTED]
    together = "\n".join("\n".join(_texts(getattr(payload, name))) for name in names)
    if holds_spread_key(together):
        longest = max(names, key=lambda name: len("".join(_texts(getattr(payload, name)))))
        raise InvalidFieldError(longest, refusal(f"The {longest}, together with other fields,", together))


def _texts(value: object) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
        return
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    elif isinstance(value, dict):
        value = (*value, *value.values())
    if isinstance(value, tuple):
        for inner in value:
            yield from _texts(inner)


def _holds_key(value: object) -> bool:
    """Whether any text in a value holds a key."""
    return any(map(holds_key, _texts(value)))


def _without_keys(value: Any) -> Any:
    """The same with each key removed."""
    if isinstance(value, str):
        return without_keys(value)
    if isinstance(value, tuple):
        return tuple(map(_without_keys, value))
    if isinstance(value, dict):
        return {without_keys(name): _without_keys(inner) for name, inner in value.items()}
    if isinstance(value, msgspec.Struct) and _holds_key(value):
        names = value.__struct_fields__
        return type(value)(**{name: _without_keys(getattr(value, name)) for name in names})
    return value


def recorded(event: NewEvent, position: int, at: int) -> Event:
    """The event as it is in the ledger from then on."""
    return Event(**msgspec.structs.asdict(event), position=position, at=at)


# Bytes that are not UTF-8 are a UnicodeDecodeError, endless nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder(order="sorted")
_stored_decoder = msgspec.json.Decoder(StoredEvent)
_name_decoder = msgspec.json.Decoder(_StoredName)
_payload_decoders = {
    (form.TYPE, form.SCHEMA): msgspec.json.Decoder(form) for form in (*_PAYLOADS.values(), *_OLDER_FORMS)
}


def encode(event: NewEvent) -> bytes:
    """The canonical bytes of an event, as RFC 8785 wants them. Raises ValueError on a lone surrogate."""
    return _encoder.encode(event)


def open_envelope(record: Record) -> StoredEvent:
    """What every event has, whatever its type. Raises UnreadableEventError."""
    try:
        return _stored_decoder.decode(record.body)
    except _UNREADABLE as error:
        raise UnreadableEventError(record.position, name_of(record).subject, str(error)) from error


def decode(record: Record) -> Event:
    """The event of a record, in the present form of its type; the record keeps the form that is stored.

    Raises UnreadableEventError on what this version cannot read whole.
    """
    stored = open_envelope(record)
    decoder = _payload_decoders.get((stored.type, stored.schema))
    if decoder is None:
        reason = f"no code for {stored.type} of schema {stored.schema}"
        raise UnreadableEventError(record.position, stored.subject, reason)
    try:
        data = decoder.decode(stored.data).upcast()
    except _UNREADABLE as error:
        raise UnreadableEventError(record.position, stored.subject, str(error)) from error
    return Event(
        id=stored.id,
        type=stored.type,
        schema=data.SCHEMA,
        subject=stored.subject,
        version=stored.version,
        workspace=stored.workspace,
        actor=stored.actor,
        request=stored.request,
        data=data,
        position=record.position,
        at=record.at,
    )


class Name(NamedTuple):
    """Which event a record holds, as far as that can be told."""

    id: str | None
    subject: str | None


def name_of(record: Record) -> Name:
    """Which event it is, also of one that cannot be read whole."""
    try:
        stored = _name_decoder.decode(record.body)
    except _UNREADABLE:
        return Name(None, None)
    return Name(stored.id, stored.subject)
