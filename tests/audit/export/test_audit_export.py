"""Exports: the JSON Lines and CSV formats, and that every export is recorded."""

import base64
import csv
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionError as StoreAwayError

from services.audit.export.csv import csv_lines
from services.audit.export.jsonl import (
    WHOLE,
    ExportError,
    entry_line,
    note_line,
    read_entry,
    read_note,
    scope_of,
    trailer_of,
)
from services.audit.export.limit import EXPORTS_A_MINUTE, TooManyExportsError
from services.audit.export.service import Exports
from services.audit.export.verify import Proof, prove
from services.audit.ingest.job import catch_up
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.signed_note import NoteError, opened
from services.audit.integrity.signer import Signer, SigningError
from services.audit.log.entry import GENESIS, Entry, chain, entry_of
from services.audit.log.filters import Filters
from services.audit.log.search import TooManyKeysError
from services.audit.log.store import AuditLog
from services.keys.model.token import mint
from shared.clock import LAST_TIME, rfc3339
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Actor, Record, Request
from shared.eventstore.events import AuditExported, KeyToggled
from shared.eventstore.ledger import Ledger
from shared.identity import AUDIT_READ, ForbiddenError, Principal
from shared.text.sealed_jsonl import LineError
from tests.support.histories import ACTOR, AT, REQUEST, created, grow, record, records, write

AUDITOR = Principal(
    kind="account",
    id=ACTOR.id,
    label=ACTOR.label,
    workspace="default",
    scopes=frozenset({AUDIT_READ}),
)


def test_an_entry_line_contains_the_exact_bytes_that_the_chain_hashes() -> None:
    entry = entry_of(record(1, created("Müller")), GENESIS)
    line = entry_line(entry)
    assert line == (
        b'{"entry_hash":"%b","previous_hash":"%b","record":%b}\n'
        % (entry.entry_hash.hex().encode(), GENESIS.hex().encode(), entry.record)
    )
    assert json.loads(line)["record"]["event"]["data"]["name"] == "Müller"
    assert read_entry(line) == entry


@pytest.mark.parametrize(
    "body", [b"no JSON", b"", b"\xff", b'{\n"a":1}', b'{"a":"\r"}', b'"\r"', b"[" * 2_000, b'{"a":1}}']
)
def test_a_body_that_is_not_single_line_json_is_exported_as_base64(body: bytes) -> None:
    entry = entry_of(Record(1, AT, body), GENESIS)
    line = entry_line(entry)
    assert set(json.loads(line)) == {"entry_hash", "previous_hash", "record_base64"}
    assert line.count(b"\n") == 1
    assert read_entry(line) == entry


def test_any_other_encoding_of_an_entry_line_is_rejected() -> None:
    entry = entry_of(record(1), GENESIS)
    line = entry_line(entry)
    as_base64 = entry_line(entry_of(Record(1, AT, b"\xff"), GENESIS))
    plain = line.partition(b'"record":')[2][:-2]
    for other in (
        line[:-1],
        line + b"\n",
        line.replace(b'":"', b'": "', 1),
        line.replace(entry.entry_hash.hex().encode(), entry.entry_hash.hex().upper().encode()),
        line.replace(b'"position":1}', b'"position":01}'),
        line.replace(b'"position":1}', b'"position":1},"more":{}'),
        as_base64.replace(b'"}', b'="}'),
        line.replace(b'"record":' + plain, b'"record_base64":"' + base64.b64encode(plain) + b'"'),
    ):
        assert other != line
        with pytest.raises(LineError):
            read_entry(other)


def test_a_note_round_trips_through_one_line() -> None:
    note = "text\n\n— name AAAAAAA=\n".encode()
    line = note_line("checkpoint", note)
    assert read_note("checkpoint", line) == note
    assert json.loads(line) == {"checkpoint": note.decode()}
    for other in (line[:-1], line.replace(b":", b": ", 1), line.replace(b"checkpoint", b"trailer"), b"[]\n"):
        with pytest.raises(LineError):
            read_note("checkpoint", other)


def test_an_entry_of_the_wrong_database_type_is_not_exported() -> None:
    text: Any = "text"  # SQLite keeps any type
    damaged = entry_of(record(7), GENESIS)._replace(record=text)
    with pytest.raises(ExportError, match="position 7"):
        entry_line(damaged)


def test_the_export_scope_names_the_workspace_and_each_filter() -> None:
    filters = Filters(workspace="default", actor="ann", since=AT)
    assert filters.as_written() == {"actor": "ann", "since": "2026-11-23T18:59:21.123Z"}
    expected = '{"actor":"ann","since":"2026-11-23T18:59:21.123Z","workspace":"default"}'
    assert scope_of("default", filters.as_written()) == expected


@pytest.mark.parametrize(
    "change", [("count 2", "count 02"), ("v1", "v2"), ("scope whole", "scope "), ("Z\n", "")]
)
def test_a_malformed_trailer_is_rejected(change: tuple[str, str]) -> None:
    text = (
        "keyledger audit export v1\nscope whole\ncount 2\nlast_position 2\n"
        f"chain_hash {'01' * 32}\nsha256 {'02' * 32}\ntime 2026-11-23T18:59:21.123Z\n"
    )
    assert trailer_of(text).text == text
    with pytest.raises(NoteError):
        trailer_of(text.replace(*change))


def rows(*events: Record) -> list[dict[str, str]]:
    content = b"".join(csv_lines(chain(events, GENESIS))).decode("utf-8-sig")
    return [*csv.DictReader(io.StringIO(content, newline=""))]


def test_a_csv_row_has_the_fields_of_its_event() -> None:
    event = record(1, KeyToggled(enabled=False, reason='a "reason",\nin two lines'), subject="key:3fA9")
    (row,) = rows(event)
    assert row == {
        "position": "1",
        "time": "2026-11-23T18:59:21.124Z",
        "event": "KeyToggled",
        "key_id": "3fA9",
        "subject": "key:3fA9",
        "actor_kind": "account",
        "actor_id": ACTOR.id,
        "actor_label": ACTOR.label,
        "address": REQUEST.ip,
        "user_agent": REQUEST.user_agent,
        "request_id": REQUEST.id,
        "data": '{"enabled":false,"reason":"a \\"reason\\",\\nin two lines"}',
        "entry_hash": entry_of(event, GENESIS).entry_hash.hex(),
    }


def test_an_unreadable_event_has_a_csv_row() -> None:
    (row,) = rows(Record(1, 2**62, b"\xff"))
    assert (row["position"], row["time"], row["event"], row["data"]) == ("1", rfc3339(LAST_TIME), "", "")


def test_the_csv_file_has_a_byte_order_mark_and_quotes_every_cell() -> None:
    header, row = csv_lines(chain([record(1)], GENESIS))
    assert header.startswith(b'\xef\xbb\xbf"position","time",')
    for line in (header.removeprefix(b"\xef\xbb\xbf"), row):
        assert re.fullmatch(rb'"(?:[^"]|"")*"(?:,"(?:[^"]|"")*")*\r\n', line)


SIGNS = "=+-@＝＋－＠﹦﹢﹣﹫−"


@pytest.mark.parametrize("before", ["", " ", "\t", "\r", "\n", "\xa0", "\x00", "\u200b\ufeff", ' "\t'])
@pytest.mark.parametrize("sign", SIGNS)
def test_cells_that_start_like_a_formula_are_escaped(sign: str, before: str) -> None:
    text = f"{before}{sign}1+1"
    (row,) = rows(
        record(
            1,
            actor=Actor(kind="key", id=text, label=text),
            request=Request(id=text, ip=text, user_agent=text),
            subject=text,
        )
    )
    for name in ("actor_id", "actor_label", "address", "user_agent", "request_id", "subject"):
        assert row[name].startswith("'")
        assert row[name].replace("'", "") == text


@pytest.mark.parametrize("separator", [";", "\t", "|", "\n", "\r", "\u2028", "；"])
@pytest.mark.parametrize("sign", SIGNS)
def test_formulas_after_another_separator_within_a_cell_are_escaped(sign: str, separator: str) -> None:
    text = f'a{separator}{sign}1{separator} "{sign}2'
    (row,) = rows(
        record(1, KeyToggled(enabled=True, reason=text), actor=Actor(kind="key", id="1", label=text))
    )
    assert row["actor_label"] == f"a{separator}'{sign}1{separator}' \"{sign}2"
    parts = re.split(re.escape(separator), row["data"])
    assert not [part for part in parts if part.strip(' "').startswith(sign)]


@pytest.mark.parametrize("text", ["a-b", "a=b", "ann@example.org", "1 - 2", "a, -1", "'=1", "{}"])
def test_text_that_is_not_a_formula_is_unchanged(text: str) -> None:
    (row,) = rows(record(1, actor=Actor(kind="key", id="1", label=text)))
    assert row["actor_label"] == text


def taken(lines: Iterator[bytes], signer: Signer) -> Proof:
    return prove(lines, signer.public_key)


def told(ledger: Ledger) -> list[AuditExported]:
    return [decode(each).data for each in ledger.records("audit:exports")]


def test_an_export_is_recorded_first_and_excludes_later_events(
    exports: Exports, sqlite_log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    grow(ledger, 5)
    catch_up(sqlite_log, ledger)
    export = exports.some(AUDITOR, Filters(workspace="default", type="KeyToggled"), "jsonl", REQUEST)
    payload = AuditExported(format="jsonl", filters={"type": "KeyToggled"}, position=5)
    assert told(ledger) == [payload]
    catch_up(sqlite_log, ledger)  # what came since is not of it
    grow(ledger, 3, "key:2")
    catch_up(sqlite_log, ledger)
    proof = taken(export.lines, signer)
    assert (proof.findings, proof.entries, proof.last_position) == ([], 5, 5)


def test_a_whole_export_has_all_workspaces_and_a_final_checkpoint(
    exports: Exports, sqlite_log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    write(ledger, sqlite_log, records(range(1, 4)))
    exports.notary.sign_checkpoint()
    write(ledger, sqlite_log, [record(4, workspace="other"), record(5)])
    steps: list[tuple[int, int]] = []
    export = exports.whole(AUDITOR, "jsonl", REQUEST, lambda done, total: steps.append((done, total)))
    proof = taken(export.lines, signer)
    assert (proof.findings, proof.entries, proof.checkpoints) == ([], 5, 2)
    assert proof.trailer
    assert proof.trailer.scope == WHOLE
    assert steps == [(5, 5)]
    assert told(ledger) == [AuditExported(format="jsonl", filters={"scope": "whole"}, position=5)]


def test_an_empty_log_can_be_exported_whole(exports: Exports, signer: Signer) -> None:
    export = exports.whole(AUDITOR, "jsonl", REQUEST, lambda *_: None)
    proof = taken(export.lines, signer)
    assert (proof.findings, proof.entries) == ([], 0)


def other(principal: Principal) -> Principal:
    return replace(principal, id="account:bob@example.org")


def test_exports_over_the_limit_append_no_events(
    exports: Exports, ledger: Ledger, sqlite_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(principal: Principal = AUDITOR) -> None:
        exports.some(principal, Filters(workspace="default"), "csv", REQUEST)

    for _ in range(EXPORTS_A_MINUTE):
        export()
    with monkeypatch.context() as nothing_is_read:
        nothing_is_read.setattr(sqlite_log, "last", lambda: pytest.fail("it was read"))
        for _ in range(1_000 - EXPORTS_A_MINUTE):
            with pytest.raises(TooManyExportsError) as caught:
                export()
    assert 1 <= caught.value.retry_after <= 60
    assert len(told(ledger)) == EXPORTS_A_MINUTE
    export(other(AUDITOR))
    exports.whole(AUDITOR, "csv", REQUEST, lambda *_: None)  # the command line is not limited
    assert len(told(ledger)) == EXPORTS_A_MINUTE + 2


def test_long_filters_are_truncated_in_the_export_event(exports: Exports, ledger: Ledger) -> None:
    texts = dict.fromkeys(["key_id", "name", "actor", "type", "ip", "q"], "🔑é" * 150)
    exports.some(AUDITOR, Filters(workspace="default", since=AT, until=AT, **texts), "csv", REQUEST)
    (event,) = ledger.records("audit:exports")
    (payload,) = told(ledger)
    assert len(event.body) < 1_500
    for name in texts:
        assert len(payload.filters[name].encode()) <= 128
        assert payload.filters[name].endswith("… (truncated)")
    assert payload.filters["since"] == "2026-11-23T18:59:21.123Z"


def test_a_truncated_filter_keeps_no_part_of_a_key(exports: Exports, ledger: Ledger) -> None:
    key = mint("kl", "default", random.Random(5).randrange).reveal()
    exports.some(AUDITOR, Filters(workspace="default", q="x" * 80 + " " + key), "csv", REQUEST)
    assert key[:30].encode() not in next(ledger.records("audit:exports")).body


@pytest.mark.parametrize("between", ["\u200b", "\u202e", "\u3164"])
def test_a_key_with_hidden_characters_is_redacted_in_the_event_and_the_trailer(
    exports: Exports, ledger: Ledger, between: str
) -> None:
    key = mint("kl", "default", random.Random(5).randrange).reveal()
    hidden = between.join(key[start : start + 15] for start in range(0, len(key), 15))
    export = exports.some(AUDITOR, Filters(workspace="default", q=hidden, actor=hidden), "jsonl", REQUEST)
    *_, trailer = export.lines
    assert told(ledger)[0].filters == {"q": "[API key]", "actor": "[API key]"}
    assert key[16:30].encode() not in trailer


def test_hidden_characters_in_recorded_filters_are_escaped(exports: Exports, ledger: Ledger) -> None:
    exports.some(AUDITOR, Filters(workspace="default", q="a\u202eb"), "csv", REQUEST)
    assert told(ledger)[0].filters == {"q": "a\\u202eb"}


def test_exporting_requires_the_audit_read_scope(exports: Exports, ledger: Ledger) -> None:
    nobody = Principal(kind="key", id="key:1", label="CI", workspace="default", scopes=frozenset())
    with pytest.raises(ForbiddenError):
        exports.some(nobody, Filters(workspace="default"), "csv", REQUEST)
    assert told(ledger) == []


def test_an_export_that_cannot_be_recorded_fails(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreAwayError

    monkeypatch.setattr(ledger, "append", away)
    with pytest.raises(StoreAwayError):
        exports.some(AUDITOR, Filters(workspace="default"), "jsonl", REQUEST)


def test_an_export_that_cannot_be_signed_or_searched_is_not_recorded(
    exports: Exports, key_file: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file.write_text("no key")
    with pytest.raises(SigningError):
        exports.some(AUDITOR, Filters(workspace="default"), "jsonl", REQUEST)
    key_file.unlink()

    def refuse(*_: object) -> None:
        raise TooManyKeysError

    monkeypatch.setattr(exports.comparison.log.search, "ascending", refuse)
    with pytest.raises(TooManyKeysError):
        exports.some(AUDITOR, Filters(workspace="default", name="a"), "jsonl", REQUEST)
    assert told(ledger) == []


def test_a_damaged_checkpoint_stops_a_whole_export(
    exports: Exports, sqlite_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(exports.comparison.ledger, sqlite_log, records([1]))
    exports.notary.sign_checkpoint()
    monkeypatch.setattr(exports.comparison.log, "checkpoints", lambda: [(1, b"no note")])
    with pytest.raises(ExportError, match="Checkpoint 1 is damaged"):
        exports.whole(AUDITOR, "jsonl", REQUEST, lambda *_: None)


def test_the_trailer_is_a_note_signed_by_the_audit_key(
    exports: Exports, sqlite_log: AuditLog, signer: Signer
) -> None:
    write(exports.comparison.ledger, sqlite_log, records([1, 2]))
    *_, last = exports.whole(AUDITOR, "jsonl", REQUEST, lambda *_: None).lines
    trailer = trailer_of(opened(read_note("trailer", last), signer.public_key))
    entry: Entry | None = sqlite_log.last_entry()
    assert entry
    assert (trailer.count, trailer.last_position, trailer.chain_hash) == (2, 2, entry.entry_hash)
    note = exports.notary.sign_checkpoint()
    assert note
    assert unverified(note).position == 2
