"""The ledger as CloudEvents 1.0, one JSON object a line, and back again without a loss. Pure.

An event's `id`, `type`, `subject` and `data` are those of the CloudEvent; `time` is its `at`, `sequence` its
position in sixteen digits, so that it sorts as text too. What else its envelope has are extension
attributes; those that are null are left out. Where the ledger's time is outside the years 1 to 9999, `time`
is the nearest one within them, and `milliseconds` the ledger's own, in milliseconds since 1970.

An event whose envelope cannot be said so (of a newer envelope, not canonical, with a character that
CloudEvents forbids) is carried as it is stored: its type is `keyledger.stored-event`, its `data_base64` the
stored bytes. Every line is read back as it is made, so that no export holds what an import would not give
back to the byte.

The last line is the trailer, of type `keyledger.export.trailer`: how many events, the last position, and the
SHA-256 of all bytes before it. Without it a file is not whole.

Credentials, idempotency records and read models are no events, and so in no export.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from shared.clock import parse_rfc3339, printable_time, rfc3339
from shared.eventstore.codec import encode, open_envelope
from shared.eventstore.envelope import Actor, ActorKind, Record, Request, StoredEvent, UnreadableEventError

_OWN_TYPES = "keyledger."
_STORED = f"{_OWN_TYPES}stored-event"
_TRAILER = f"{_OWN_TYPES}export.trailer"

# The types String and Integer of CloudEvents: no control characters, nothing that is never a character, and
# 32 bits.
_NEVER_CHARACTERS = "".join(
    chr(plane | low) for plane in range(0, 0x110000, 0x10000) for low in (0xFFFE, 0xFFFF)
)
_PATTERN = rf"\A[^\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NEVER_CHARACTERS}]*\Z"
_Text: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATTERN)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=_PATTERN, min_length=1)]
_Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Sequence: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{16}\Z")]
_Milliseconds: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A-?[0-9]+\Z")]


class ExportError(Exception):
    """The ledger cannot be exported as it is."""


class DamagedFileError(Exception):
    """A file is not, from the first byte to the last, what an export wrote; the message says where."""


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    # With no defaults, so that they are written in every line.
    specversion: Literal["1.0"]
    source: Literal["urn:keyledger:ledger"]
    type: _Name
    id: _Name


class _Event(_CloudEvent, frozen=True, kw_only=True):
    """An event whose envelope is understood; its data may be whatever it is."""

    sequence: _Sequence
    time: str
    milliseconds: _Milliseconds | None = None
    subject: _Name
    version: _Integer
    schema: _Integer
    workspace: _Text
    actorkind: ActorKind
    actorid: _Text
    actorlabel: _Text
    requestid: _Text
    requestip: _Text | None = None
    requestagent: _Text | None = None
    datacontenttype: Literal["application/json"]
    data: msgspec.Raw


class _StoredEvent(_CloudEvent, frozen=True, kw_only=True):
    """An event as it is stored."""

    sequence: _Sequence
    time: str
    milliseconds: _Milliseconds | None = None
    datacontenttype: Literal["application/octet-stream"]
    data_base64: bytes


class _Sum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: int
    last_position: int
    sha256: str


class _Trailer(_CloudEvent, frozen=True, kw_only=True):
    datacontenttype: Literal["application/json"]
    data: _Sum


class _Kind(msgspec.Struct, frozen=True):
    type: str


_encoder = msgspec.json.Encoder()
_kind_decoder = msgspec.json.Decoder(_Kind)
_event_decoder = msgspec.json.Decoder(_Event)
_stored_decoder = msgspec.json.Decoder(_StoredEvent)
# Bytes that are not UTF-8 are a ValueError, endless nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def lines(records: Iterable[Record]) -> Iterator[bytes]:
    """The file of a whole ledger, line by line, with the trailer. Raises ExportError."""
    digest, last = hashlib.sha256(), 0
    for record in records:
        if record.position != last + 1:
            raise ExportError(f"The ledger has no event at position {last + 1}: it is damaged.")
        line = line_of(record)
        digest.update(line)
        last = record.position
        yield line
    yield _trailer(last, digest.hexdigest())


def records(file: Iterable[bytes]) -> Iterator[Record]:
    """The events of a file, given by its lines.

    Raises DamagedFileError, it may be only after the last event: none is to be trusted before this ended.
    """
    digest, last, rest = hashlib.sha256(), 0, iter(file)
    for line in rest:
        if not line.endswith(b"\n"):
            raise DamagedFileError(f"It breaks off in line {last + 1}.")
        try:
            record = None if _kind(line) == _TRAILER else record_of(line)
        except _UNREADABLE as error:
            raise DamagedFileError(f"Line {last + 1} is no event of an export ({error}).") from error
        if record is None:
            break
        if record.position != last + 1:
            raise DamagedFileError(f"Line {last + 1} has the event at position {record.position}.")
        digest.update(line)
        last = record.position
        yield record
    else:
        raise DamagedFileError(f"It ends after {last} events without a trailer.")
    if line != _trailer(last, digest.hexdigest()):
        raise DamagedFileError(f"Its trailer is not that of the {last} events before it.")
    if next(rest, None) is not None:
        raise DamagedFileError("It goes on after its trailer.")


def line_of(record: Record) -> bytes:
    """An event as a line. Raises ExportError."""
    for said in (_event, _stored_event):
        try:
            line = _encoder.encode(said(record)) + b"\n"
            msgspec.json.decode(line)  # the data as well, for any reader must be able to
            if line.count(b"\n") == 1 and record_of(line) == record:
                return line
        except (UnreadableEventError, *_UNREADABLE):
            continue
    raise ExportError(f"The event at position {record.position} cannot be written so that it comes back.")


def record_of(line: bytes) -> Record:
    """The inverse. Raises msgspec.MsgspecError, ValueError or RecursionError on any other line."""
    if _kind(line) == _STORED:
        stored = _stored_decoder.decode(line)
        return _record(stored, stored.data_base64)
    event = _event_decoder.decode(line)
    return _record(event, encode(_envelope(event)))


def _record(event: _Event | _StoredEvent, body: bytes) -> Record:
    at = parse_rfc3339(event.time) if event.milliseconds is None else int(event.milliseconds)
    return Record(int(event.sequence), at, body)


def _kind(line: bytes) -> str:
    return _kind_decoder.decode(line).type


def _event(record: Record) -> _Event:
    stored = open_envelope(record)
    if stored.type.startswith(_OWN_TYPES):
        raise ValueError("its type would be taken for one of ours")
    return _Event(
        specversion="1.0",
        source="urn:keyledger:ledger",
        type=stored.type,
        id=stored.id,
        sequence=f"{record.position:016}",
        time=rfc3339(record.at),
        milliseconds=None if printable_time(record.at) == record.at else str(record.at),
        subject=stored.subject,
        version=stored.version,
        schema=stored.schema,
        workspace=stored.workspace,
        actorkind=stored.actor.kind,
        actorid=stored.actor.id,
        actorlabel=stored.actor.label,
        requestid=stored.request.id,
        requestip=stored.request.ip,
        requestagent=stored.request.user_agent,
        datacontenttype="application/json",
        data=stored.data,
    )


def _envelope(event: _Event) -> StoredEvent:
    return StoredEvent(
        id=event.id,
        type=event.type,
        schema=event.schema,
        subject=event.subject,
        version=event.version,
        workspace=event.workspace,
        actor=Actor(kind=event.actorkind, id=event.actorid, label=event.actorlabel),
        request=Request(id=event.requestid, ip=event.requestip, user_agent=event.requestagent),
        data=event.data,
    )


def _stored_event(record: Record) -> _StoredEvent:
    return _StoredEvent(
        specversion="1.0",
        source="urn:keyledger:ledger",
        type=_STORED,
        id=f"position-{record.position}",
        sequence=f"{record.position:016}",
        time=rfc3339(record.at),
        milliseconds=None if printable_time(record.at) == record.at else str(record.at),
        datacontenttype="application/octet-stream",
        data_base64=record.body,
    )


def _trailer(last: int, sha256: str) -> bytes:
    # Positions have no gap, so the last one is the count as well.
    trailer = _Trailer(
        specversion="1.0",
        source="urn:keyledger:ledger",
        type=_TRAILER,
        id=sha256,
        datacontenttype="application/json",
        data=_Sum(count=last, last_position=last, sha256=sha256),
    )
    return _encoder.encode(trailer) + b"\n"
