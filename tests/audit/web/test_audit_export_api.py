"""The export endpoints of the audit log, on a separate application: refusals and their responses."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from redis import ConnectionError as StoreAwayError

from services.audit.export.limit import EXPORTS_A_MINUTE
from services.audit.export.service import Exports
from services.audit.export.verify import prove
from services.audit.integrity.signer import Signer
from services.audit.log.database import AuditDatabaseError
from services.audit.log.search import TooManyKeysError
from services.audit.log.store import AuditLog
from services.audit.status import AuditStatus
from services.audit.web.register import register
from shared.eventstore.ledger import Ledger, VersionConflictError
from shared.forensics import KeyForensics
from shared.identity import AUDIT_READ, Principal
from shared.web.access import Access
from shared.web.app import create_app
from shared.web.server.limits import Limits
from tests.support.histories import records, write

ANN = Principal(kind="key", id="key:1", label="CI", workspace="default", scopes=frozenset({AUDIT_READ}))
FORMS = pytest.mark.parametrize("form", ["jsonl", "csv"])


@pytest.fixture
def client(exports: Exports, audit_status: AuditStatus) -> FlaskClient:
    write(audit_status.ledger, audit_status.log, records(range(1, 1_001)))
    app: Flask
    app, api = create_app(
        secret_key="secret",
        sessions=SecureCookieSessionInterface(),
        access=Access(lambda _: ANN, lambda *_: None, lambda *_: None),
        home="audit.entries_page",
        limits=Limits(None),
    )
    register(app, api, audit_status, Mock(KeyForensics), exports)
    return app.test_client()


def told(ledger: Ledger) -> int:
    return ledger.version("audit:exports")


def _kept(chunks: Iterator[bytes], received: bytearray) -> Iterator[bytes]:
    """Keeps what was received before the stream broke off."""
    for chunk in chunks:
        received.extend(chunk)
        yield b""


def get(client: FlaskClient, form: str, **query: str) -> Any:
    headers = {"Authorization": "Bearer token"}
    return client.get(f"/v1/audit/entries.{form}", query_string=query, headers=headers)


def test_an_export_is_returned_and_recorded(client: FlaskClient, ledger: Ledger, signer: Signer) -> None:
    answer = get(client, "jsonl", key_id="1")
    proof = prove(answer.data.splitlines(keepends=True), signer.public_key)
    assert (answer.status_code, proof.findings, proof.entries) == (200, [], 334)
    assert told(ledger) == 1


@FORMS
def test_head_returns_the_export_headers_without_exporting(
    client: FlaskClient, ledger: Ledger, form: str
) -> None:
    answer = client.head(f"/v1/audit/entries.{form}", headers={"Authorization": "Bearer token"})
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Type"] == get(client, form).headers["Content-Type"]
    assert client.head("/audit/export").status_code == 405
    assert told(ledger) == 1  # of the GET


def test_too_many_exports_are_refused_with_retry_after(client: FlaskClient, ledger: Ledger) -> None:
    assert [get(client, "csv").status_code for _ in range(EXPORTS_A_MINUTE)] == [200] * EXPORTS_A_MINUTE
    answer = get(client, "jsonl")
    assert (answer.status_code, answer.content_type) == (429, "application/problem+json")
    assert answer.json["code"] == "export_limit"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert told(ledger) == EXPORTS_A_MINUTE


@FORMS
@pytest.mark.parametrize("name", ["key_id", "actor", "type", "q"])
def test_a_filter_that_resembles_a_key_is_refused_and_not_recorded(
    client: FlaskClient, ledger: Ledger, form: str, name: str
) -> None:
    answer = get(client, form, **{name: "x" * 26})
    assert answer.status_code == 422
    assert [row["field"] for row in answer.json["errors"]] == [name]
    assert told(ledger) == 0


@FORMS
@pytest.mark.parametrize("error", [StoreAwayError(), VersionConflictError("audit:exports", 1, 2)])
def test_an_export_that_cannot_be_recorded_is_refused(
    client: FlaskClient, ledger: Ledger, form: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ledger, "append", fail)
    answer = get(client, form)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_an_export_that_cannot_be_signed_is_refused_and_not_recorded(
    client: FlaskClient, ledger: Ledger, key_file: Any
) -> None:
    key_file.write_text("no key")
    answer = get(client, "jsonl")
    assert answer.status_code == 503
    assert str(key_file) not in answer.text
    assert told(ledger) == 0


@FORMS
def test_an_unavailable_database_answers_503(
    client: FlaskClient, sqlite_log: AuditLog, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AuditDatabaseError("away")

    monkeypatch.setattr(sqlite_log, "last", fail)
    assert get(client, form).status_code == 503


@FORMS
def test_a_truncated_export_is_marked_as_incomplete(
    client: FlaskClient, exports: Exports, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [*exports.comparison.log.walk(700)]  # more than are compared at a time

    def fail(*_: object) -> Any:
        yield from entries
        raise AuditDatabaseError("away")

    monkeypatch.setattr(exports.comparison.log.search, "ascending", fail)
    received = bytearray()
    chunks = get(client, form).iter_encoded()
    with pytest.raises(AuditDatabaseError):
        received.extend(b"".join(_kept(chunks, received)))
    assert received.count(b"\n") == (501 if form == "jsonl" else 502)
    assert b"not whole" in received.lower()


def test_a_name_filter_matching_too_many_keys_is_refused_and_not_recorded(
    client: FlaskClient, exports: Exports, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TooManyKeysError

    monkeypatch.setattr(exports.comparison.log.search, "ascending", refuse)
    answer = get(client, "csv")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == "name"
    assert told(ledger) == 0


@FORMS
def test_an_export_is_refused_until_the_index_is_complete(
    client: FlaskClient, ledger: Ledger, sqlite_log: AuditLog, form: str
) -> None:
    with sqlite_log.database.writing() as connection:
        sqlite_log.database.index.start(connection)
    answer = get(client, form, key_id="1")
    assert answer.status_code == 503
    assert "0 of 1,000 entries are indexed" in answer.json["detail"]
    assert told(ledger) == 0
    sqlite_log.index_some()
    assert get(client, form, key_id="1").status_code == 200


@FORMS
def test_an_export_is_refused_during_an_alarm(
    client: FlaskClient, ledger: Ledger, audit_status: AuditStatus, form: str
) -> None:
    audit_status.comparison.report_missing(7)
    answer = get(client, form)
    assert answer.status_code == 503
    assert "keyledger audit check" in answer.json["detail"]
    assert told(ledger) == 0
