"""Events to bytes and back. The decoders are made from the event classes."""

from typing import NamedTuple

import msgspec

from shared.eventstore import events
from shared.eventstore.envelope import Event, NewEvent, Record, StoredEvent, UnreadableEventError
from shared.eventstore.payload import Payload, has_times, with_printable_times

# Every class of events; a type has one for each schema that was ever stored.
FORMS: tuple[type[Payload], ...] = tuple(
    found
    for found in vars(events).values()
    if isinstance(found, type) and issubclass(found, Payload) and found is not Payload
)
PRESENT_FORMS: dict[str, type[Payload]] = {
    form.TYPE: max((each for each in FORMS if each.TYPE == form.TYPE), key=lambda each: each.SCHEMA)
    for form in FORMS
}
EVENT_TYPES: tuple[str, ...] = tuple(PRESENT_FORMS)


class _StoredName(msgspec.Struct, frozen=True):
    """The least that must be read of an event to say which it is."""

    id: str
    subject: str


# Bytes that are not UTF-8 are a UnicodeDecodeError, endless nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder(order="sorted")
_stored_decoder = msgspec.json.Decoder(StoredEvent)
_name_decoder = msgspec.json.Decoder(_StoredName)
_forms = {(form.TYPE, form.SCHEMA): (msgspec.json.Decoder(form), has_times(form)) for form in FORMS}


def encode(event: NewEvent) -> bytes:
    """The canonical bytes of an event by RFC 8785. Raises ValueError on a lone surrogate."""
    return _encoder.encode(event)


def open_envelope(record: Record) -> StoredEvent:
    """What every event has, of whatever type. Raises UnreadableEventError."""
    try:
        return _stored_decoder.decode(record.body)
    except _UNREADABLE as error:
        raise UnreadableEventError(record.position, name_of(record).subject, str(error)) from error


def decode(record: Record) -> Event:
    """The event of a record, in the present form of its type; the record keeps the form that is stored.

    Raises UnreadableEventError if this version can't read the whole event.
    """
    stored = open_envelope(record)
    form = _forms.get((stored.type, stored.schema))
    if form is None:
        reason = f"no code for {stored.type} of schema {stored.schema}"
        raise UnreadableEventError(record.position, stored.subject, reason)
    decoder, has_times_ = form
    try:
        payload = decoder.decode(stored.data)
    except _UNREADABLE as error:
        raise UnreadableEventError(record.position, stored.subject, str(error)) from error
    if has_times_:
        payload = with_printable_times(payload)
    data = payload.upcast()
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
    """The id and the subject of an event; None where it can't be read."""

    id: str | None
    subject: str | None


def name_of(record: Record) -> Name:
    """Which event it is, also of one that can't be read whole."""
    try:
        stored = _name_decoder.decode(record.body)
    except _UNREADABLE:
        return Name(None, None)
    return Name(stored.id, stored.subject)
