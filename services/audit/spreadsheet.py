"""The audit log for a spreadsheet: CSV, a row for each entry. It does not prove itself. Pure."""

import csv
import io
from collections.abc import Iterable, Iterator

import msgspec

from services.audit.entries import Entry, stored_event, told
from shared.timestamps import rfc3339

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_HEADER = (
    "position",
    "time",
    "event",
    "key_id",
    "subject",
    "actor_kind",
    "actor_id",
    "actor_label",
    "address",
    "user_agent",
    "request_id",
    "data",
    "entry_hash",
)

_encoder = msgspec.json.Encoder(order="sorted")


def csv_lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The file, line by line: the header, then the entries."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_HEADER)
    yield _taken(buffer)
    for entry in entries:
        writer.writerow(map(_cell, _row(entry)))
        yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def _row(entry: Entry) -> tuple[object, ...]:
    stored, event = stored_event(entry), told(entry)
    request = stored.get("request")
    data = stored.get("data")
    return (
        entry.position,
        rfc3339(entry.at),
        event.type,
        event.key_id,
        event.subject,
        event.actor_kind,
        event.actor_id,
        event.actor_label,
        event.ip,
        request.get("user_agent") if isinstance(request, dict) else None,
        event.request_id,
        None if data is None else _encoder.encode(data).decode(),
        entry.entry_hash.hex(),
    )


def _cell(value: object) -> object:
    """What no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
