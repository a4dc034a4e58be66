"""The audit log for a spreadsheet: CSV, a row for each entry. It does not prove itself. Pure.

No cell becomes a formula, whichever separator and encoding a spreadsheet assumes: the file begins with a byte
order mark, every cell is quoted, and an apostrophe goes before any text that could begin a formula.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator

import msgspec

from services.audit.log.audit_entry import AuditEntry, parse_entry
from services.audit.log.entry import Entry
from shared.clock import rfc3339

# What ends a cell where other separators than the comma are expected, and what ends a line.
_END = r";|\t\n\v\f\r\x85\u2028\u2029\u037e；｜"
# What is passed over at the beginning: quotation marks, and characters that show nothing.
_UNSEEN = r'"\s\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff'
# What begins a formula, also in the forms that an encoding without them turns into these.
_SIGNS = r"=+\-@＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋−"
_FORMULA = re.compile(rf"(^|[{_END}])(?=[{_UNSEEN}]*[{_SIGNS}])")
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
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(_HEADER)
    yield codecs.BOM_UTF8 + _taken(buffer)
    for entry in entries:
        writer.writerow(map(_cell, _row(parse_entry(entry))))
        yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def _row(entry: AuditEntry) -> tuple[object, ...]:
    event = entry.event
    return (
        entry.position,
        rfc3339(entry.at),
        event.type,
        event.key_id,
        event.subject,
        event.actor["kind"],
        event.actor["id"],
        event.actor["label"],
        event.ip,
        event.request.get("user_agent"),
        event.request_id,
        None if event.data is None else _encoder.encode(event.data).decode(),
        entry.entry_hash,
    )


def _cell(value: object) -> object:
    """What no spreadsheet takes for a formula."""
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value
