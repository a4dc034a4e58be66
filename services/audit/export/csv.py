"""The audit log as CSV for spreadsheets, one row per entry. It can't be verified. Pure.

No cell becomes a formula, whatever separator and encoding a spreadsheet assumes: the file starts with a byte
order mark, every cell is quoted, and text that could start a formula gets an apostrophe.
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

# Characters that end a cell if another separator than the comma is expected, or end a line.
_END = r";|\t\n\v\f\r\x85\u2028\u2029\u037e；｜"
# Characters that spreadsheets skip at the start of a cell: quotation marks and invisible characters.
_UNSEEN = r'"\s\x00-\x1f\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff'
# Characters that start a formula, also those that a conversion to another encoding turns into them.
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
    """The lines of the file: the header, then the entries."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(_HEADER)
    yield codecs.BOM_UTF8 + _drained(buffer)
    for entry in entries:
        writer.writerow(map(_cell, _row(parse_entry(entry))))
        yield _drained(buffer)


def _drained(buffer: io.StringIO) -> bytes:
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
    """The value with an apostrophe before anything that could start a formula."""
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value
