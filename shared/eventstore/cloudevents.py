"""Export of the ledger as CloudEvents 1.0, one JSON object a line, and the lossless import. Pure.

An event's `id`, `type`, `subject` and `data` are those of the CloudEvent; `time` is its `at`, `sequence` its
position in sixteen digits, so that it sorts as text too. The rest of its envelope are extension attributes,
without those that are null. If the ledger's time is outside the years 1 to 9999, `time` is the nearest one
within them, and `milliseconds` the ledger's own, in milliseconds since 1970.

An event whose envelope can't be expressed like that (a newer envelope, JSON that isn't canonical, a character
that CloudEvents forbids) is exported as it is stored: its type is `keyledger.stored-event`, its `data_base64`
the stored bytes. Every line is parsed right after it is made, so an import returns every event to the byte.

The last line is the trailer, of type `keyledger.export.trailer`: how many events, the last position, and the
SHA-256 of all bytes before it (`shared.text.sealed_jsonl`).

Credentials, idempotency records and read models aren't events, so they aren't exported.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from shared.clock import parse_rfc3339, printable_time, rfc3339
from shared.eventstore.codec import encode, open_envelope
from shared.eventstore.envelope import Actor, ActorKind, Record, Request, StoredEvent, UnreadableEventError
from shared.text.sealed_jsonl import UNREADABLE, DamagedFileError, SealedReader, sealed

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
    """The ledger can't be exported."""


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    # Without defaults, so that every line has them.
    specversion: Literal["1.0"]
    source: Literal["urn:keyledger:ledger"]
    type: _Name
    id: _Name


class _Event(_CloudEvent, frozen=True, kw_only=True):
    """An event whose envelope this version can read; its data may be anything."""

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


def lines(records: Iterable[Record]) -> Iterator[bytes]:
    """The export of a whole ledger, with the trailer. Raises ExportError."""
    last = 0

    def events() -> Iterator[bytes]:
        nonlocal last
        for record in records:
            if record.position != last + 1:
                raise ExportError(f"The ledger has no event at position {last + 1}: it is damaged.")
            last = record.position
            yield line_of(record)

    return sealed(events(), lambda digest: _trailer(last, digest))


def records(file: Iterable[bytes]) -> Iterator[Record]:
    """The events of an export.

    Raises DamagedFileError, maybe only after the last event: don't trust any event before.
    """
    last, reader = 0, SealedReader(file, _TRAILER_START)
    for line in reader:
        try:
            record = record_of(line)
        except UNREADABLE as error:
            raise DamagedFileError(f"Line {last + 1} isn't an event of an export ({error}).") from error
        if record.position != last + 1:
            raise DamagedFileError(f"Line {last + 1} has the event at position {record.position}.")
        last = record.position
        yield record
    reader.verify(_trailer(last, reader.sha256))


def line_of(record: Record) -> bytes:
    """An event as a line. Raises ExportError."""
    for form in (_event, _stored_event):
        try:
            line = _encoder.encode(form(record)) + b"\n"
            msgspec.json.decode(line)  # the data too, so that any reader can parse it
            if line.count(b"\n") == 1 and record_of(line) == record:
                return line
        except (UnreadableEventError, *UNREADABLE):
            continue
    raise ExportError(f"The event at position {record.position} can't be exported without a loss.")


def record_of(line: bytes) -> Record:
    """The inverse. Raises msgspec.MsgspecError, ValueError or RecursionError for any other line."""
    if _kind_decoder.decode(line).type == _STORED:
        stored = _stored_decoder.decode(line)
        return _record(stored, stored.data_base64)
    event = _event_decoder.decode(line)
    return _record(event, encode(_envelope(event)))


def _record(event: _Event | _StoredEvent, body: bytes) -> Record:
    at = parse_rfc3339(event.time) if event.milliseconds is None else int(event.milliseconds)
    return Record(int(event.sequence), at, body)


def _event(record: Record) -> _Event:
    stored = open_envelope(record)
    if stored.type.startswith(_OWN_TYPES):
        raise ValueError("its type is reserved for exports")
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


def _trailer(last: int, digest: bytes) -> bytes:
    # Positions have no gap, so the last one is the count as well.
    trailer = _Trailer(
        specversion="1.0",
        source="urn:keyledger:ledger",
        type=_TRAILER,
        id=digest.hex(),
        datacontenttype="application/json",
        data=_Sum(count=last, last_position=last, sha256=digest.hex()),
    )
    return _encoder.encode(trailer) + b"\n"


_TRAILER_START = _trailer(0, b"").partition(b',"id"')[0]
