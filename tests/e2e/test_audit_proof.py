"""Verifying the audit log: checkpoints, the check, exports by HTTP and command line, and offline."""

import csv
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from services.audit.export.verify import Proof, prove
from services.audit.integrity.signed_note import PublicKey
from services.audit.log.entry import entry_of, record_of
from services.audit.log.store import AuditLog
from services.cli import main
from shared.identity import AUDIT_READ
from tests.support.processes import until
from tests.support.runbooks import follow
from tests.support.service import KEYLEDGER, Service
from tests.support.tampering import Tampered

Json = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Keyledger with fifty keys in two workspaces."""
    running = Service(tmp_path_factory.mktemp("data"), KEYLEDGER_RATE_LIMIT="0")
    running.start()
    for number in range(50):
        running.key(workspace="elsewhere" if number % 2 else "default")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def public_key(service: Service) -> PublicKey:
    return PublicKey.of_text(service.run("audit", "public-key").stdout.strip())


@pytest.fixture(scope="module")
def auditor(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key(AUDIT_READ)}"}


def get(service: Service, path: str, headers: dict[str, str], **query: str) -> requests.Response:
    return requests.get(f"{service.url}/v1/audit/{path}", params=query, headers=headers, timeout=60)


def entries(service: Service, headers: dict[str, str], **query: str) -> list[Json]:
    found: list[Json] = get(service, "entries", headers, **query).json()["entries"]
    return found


def proved(content: bytes, public_key: PublicKey) -> Proof:
    return prove(content.splitlines(keepends=True), public_key)


def caught_up(service: Service, headers: dict[str, str]) -> None:
    """Waits until the log has all events recorded so far."""
    head = int(service.run("projector", "status", "--json").stdout.partition('"head": ')[2].partition(",")[0])
    until(lambda: entries(service, headers)[0]["position"] >= head - 1, what="the audit log")


def test_an_export_of_a_workspace_is_verifiable(
    service: Service, auditor: dict[str, str], public_key: PublicKey
) -> None:
    caught_up(service, auditor)
    answer = get(service, "entries.jsonl", auditor, type="KeyCreated")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/jsonl; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="keyledger-audit.jsonl"'
    assert answer.headers["Cache-Control"] == "no-store"
    proof = proved(answer.content, public_key)
    assert proof.findings == []
    assert proof.entries == 26  # and not those of the other workspace
    assert b"elsewhere" not in answer.content
    assert proof.trailer
    assert proof.trailer.scope == '{"type":"KeyCreated","workspace":"default"}'


def test_an_export_is_recorded_with_its_filters(service: Service, auditor: dict[str, str]) -> None:
    assert get(service, "entries.csv", auditor, since="2026-01-01T00:00:00.000Z").status_code == 200

    def of_csv() -> list[Json]:
        found = entries(service, auditor, type="AuditExported")
        return [entry for entry in found if entry["data"]["format"] == "csv"]

    until(of_csv, what="the event")
    told = of_csv()[0]
    assert told["data"]["filters"] == {"since": "2026-01-01T00:00:00.000Z"}
    assert told["actor"]["kind"] == "key"
    assert told["position"] > told["data"]["position"] > 0


def test_a_csv_export_has_a_row_for_each_entry(service: Service, auditor: dict[str, str]) -> None:
    caught_up(service, auditor)
    answer = get(service, "entries.csv", auditor, type="KeyCreated")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = [*csv.DictReader(answer.content.decode("utf-8-sig").splitlines())]
    assert len(rows) == 26
    assert {row["event"] for row in rows} == {"KeyCreated"}


def test_a_search_that_looks_like_a_key_is_refused_and_not_recorded(
    service: Service, auditor: dict[str, str]
) -> None:
    secret = service.key()
    caught_up(service, auditor)
    before = len(entries(service, auditor, type="AuditExported"))
    for form in ("jsonl", "csv"):
        answer = get(service, f"entries.{form}", auditor, q=secret)
        assert answer.status_code == 422
        assert [row["field"] for row in answer.json()["errors"]] == ["q"]
        assert secret not in answer.text
    caught_up(service, auditor)
    assert len(entries(service, auditor, type="AuditExported")) == before


@pytest.mark.parametrize("query", [{"limit": "5"}, {"cursor": "5"}, {"since": "noon"}, {"what": "x"}])
def test_invalid_export_parameters_are_rejected(
    service: Service, auditor: dict[str, str], query: dict[str, str]
) -> None:
    assert get(service, "entries.jsonl", auditor, **query).status_code == 422


def test_checkpoints_are_signed_automatically_and_on_demand(service: Service) -> None:
    first = service.run("audit", "checkpoint").stdout
    assert first.startswith("keyledger audit checkpoint v1\nsequence ")
    assert int(re.search(r"sequence (\d+)", first)[1]) > 1  # type: ignore[index]  # the worker made the first
    assert (service.data_dir / "audit_key.pem.last").read_text() == first
    assert stat.S_IMODE((service.data_dir / "audit_key.pem").stat().st_mode) == 0o600


def test_checking_an_intact_log_succeeds_and_is_recorded(service: Service, auditor: dict[str, str]) -> None:
    run = service.run("audit", "check")
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "the audit log is intact")
    until(lambda: entries(service, auditor, type="AuditChecked"), what="the event")
    told = entries(service, auditor, type="AuditChecked")[0]
    assert told["data"]["findings"] == []
    assert told["actor"]["kind"] == "operator"


def test_checking_with_another_public_key_reports_forged_checkpoints(service: Service) -> None:
    other = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    run = service.run("audit", "check", "--public-key", other)
    assert run.returncode == 1
    assert "checkpoint forged (" in run.stdout
    assert run.stdout.endswith("THE AUDIT LOG IS NOT INTACT\n")


@pytest.fixture(scope="module")
def exported(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole log, exported to a file."""
    file = tmp_path_factory.mktemp("exported") / "audit.jsonl"
    run = service.run("audit", "export", str(file))
    assert run.returncode == 0, run.stderr
    return file


def offline(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command without a reachable store, database or data directory."""
    nowhere = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "KEYLEDGER_DATA_DIR": "/nonexistent/data",
        "KEYLEDGER_REDIS_URL": "redis://127.0.0.1:1",
        "KEYLEDGER_AUDIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }
    return subprocess.run(
        [KEYLEDGER, "audit", "check", *arguments],
        env=nowhere,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_whole_export_is_verified_offline_with_only_the_public_key(
    exported: Path, public_key: PublicKey
) -> None:
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    run = offline("--file", str(exported), "--public-key", str(public_key))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "as an export of the whole log" in run.stdout
    assert run.stdout.endswith("the export is intact\n")
    assert b"elsewhere" in exported.read_bytes()
    assert b'{"checkpoint":"keyledger audit checkpoint v1' in exported.read_bytes()


def test_offline_verification_opens_no_socket(
    exported: Path, public_key: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", "/nonexistent/data")
    arguments = ["audit", "check", "--file", str(exported), "--public-key", str(public_key)]
    run = CliRunner().invoke(main, arguments)
    assert (run.exit_code, run.output.splitlines()[-1]) == (0, "the export is intact")


def test_a_tampered_export_is_reported_with_kind_and_position(
    exported: Path, public_key: PublicKey, tmp_path: Path
) -> None:
    lines = exported.read_bytes().splitlines(keepends=True)
    tampered = tmp_path / "tampered.jsonl"
    tampered.write_bytes(b"".join([*lines[:5], *lines[6:]]))
    run = offline("--file", str(tampered), "--public-key", str(public_key))
    assert run.returncode == 1
    assert re.search(
        r"(?m)^missing \(1\), first at \d+: there is no entry, though later ones are$", run.stdout
    )
    assert run.stdout.endswith("THE EXPORT IS NOT INTACT\n")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((), "`keyledger audit public-key` prints it"),
        (("--public-key", "nonsense"), "It must look like keyledger-audit+"),
        (("--public-key", "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"), "wrong"),
    ],
)
def test_usage_errors_have_their_own_exit_status_and_advice(
    exported: Path, arguments: tuple[str, ...], advice: str
) -> None:
    run = offline("--file", str(exported), *arguments)
    assert run.returncode == 2
    assert advice in " ".join(run.stderr.replace("│", " ").split())


def test_a_missing_file_is_a_usage_error(public_key: PublicKey) -> None:
    assert offline("--file", "/nonexistent", "--public-key", str(public_key)).returncode == 2


def test_a_whole_csv_export_is_not_accepted_as_a_signed_export(
    service: Service, public_key: PublicKey, tmp_path: Path
) -> None:
    run = service.run("audit", "export", str(tmp_path / "audit.csv"), "--format", "csv")
    assert run.returncode == 0
    rows = [*csv.DictReader((tmp_path / "audit.csv").read_text("utf-8-sig").splitlines())]
    assert rows[0]["position"] == "1"
    checked = offline("--file", str(tmp_path / "audit.csv"), "--public-key", str(public_key))
    assert checked.returncode == 2
    assert "CSV has no signature" in checked.stderr


def test_a_failed_export_leaves_no_file(service: Service, tmp_path: Path) -> None:
    run = service.run("audit", "export", str(tmp_path / "none" / "audit.jsonl"))
    assert run.returncode == 1
    assert "can't be written" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_status_is_available_as_text_json_and_over_http(
    service: Service, auditor: dict[str, str], public_key: PublicKey
) -> None:
    assert service.run("audit", "check").returncode == 0
    caught_up(service, auditor)
    said = service.run("audit", "status").stdout
    assert re.search(r"(?m)^position \d+ of \d+, 0 events and 0\.000 s behind$", said)
    assert re.search(r"(?m)^verified at 20", said)
    assert re.search(r"(?m)^checkpoint \d+ at position \d+, 20", said)
    assert said.endswith("0 jobs waiting, 0 failed within the last hour\n")
    status = json.loads(service.run("audit", "status", "--json").stdout)
    assert (status["sound"], status["in_step"], status["lag_events"], status["failures"]) == (
        True,
        True,
        0,
        [],
    )
    told = get(service, "integrity", auditor).json()
    assert told["last_check"]["sound"]
    assert told["public_key"] == str(public_key)
    assert told["last_checkpoint"]["position"] == status["checkpoint_position"]


def test_a_rebuilt_index_finds_the_same_entries(service: Service, auditor: dict[str, str]) -> None:
    before = [entry["position"] for entry in entries(service, auditor, type="KeyCreated")]
    assert before
    run = service.run("audit", "reindex")
    assert (run.returncode, run.stdout) == (0, "The search index is complete.\n")
    assert [entry["position"] for entry in entries(service, auditor, type="KeyCreated")] == before


def test_a_truncated_and_refilled_log_raises_an_alarm_until_acknowledged(
    service: Service, auditor: dict[str, str]
) -> None:
    caught_up(service, auditor)
    database = Tampered(service.audit_database)
    database.disarm()
    database.run("DELETE FROM audit_entries WHERE position > 20")
    database.close()
    service.key()
    caught_up(service, auditor)

    alarm = get(service, "integrity", auditor).json()["alarm"]
    assert (alarm["kind"], alarm["position"]) == ("cut off", 21)
    status = service.run("audit", "status")
    assert status.returncode == 1
    assert "cut off (1), first at 21" in status.stdout
    checked = service.run("audit", "check")
    assert checked.returncode == 1
    assert "cut off (1), first at 21" in checked.stdout
    assert get(service, "integrity", auditor).json()["last_check"]["sound"] is False

    assert follow(service, "An alarm about the audit log") == 0
    told = get(service, "integrity", auditor).json()
    assert (told["alarm"], told["last_check"]["sound"]) == (None, True)
    assert service.run("audit", "status").returncode == 0


def test_a_forged_entry_is_marked_raises_an_alarm_and_blocks_exports(
    service: Service, auditor: dict[str, str]
) -> None:
    """Must be the last test in this module, because it damages the log."""
    caught_up(service, auditor)
    log = AuditLog(service.audit_database)
    true = next(log.walk(40, 39))
    log.close()
    forged = record_of(true.record.replace(b'"label":"', b'"label":"E'))
    assert forged
    database = Tampered(service.audit_database)
    database.disarm()
    database.overwrite(entry_of(forged, true.previous_hash))
    database.close()

    assert get(service, "integrity", auditor).json()["alarm"] is None
    refused = [get(service, f"entries.{form}", auditor) for form in ("jsonl", "csv")]
    assert [answer.status_code for answer in refused] == [503, 503]
    assert "position 40 was changed" in refused[0].json()["detail"]
    assert "There is an alarm about the audit log (changed)" in refused[1].json()["detail"]
    found = {entry["position"]: entry["integrity"] for entry in entries(service, auditor, limit="200")}
    assert {found[position] for position in (40, 41) if position in found} == {"mismatch"}
    assert found[max(found)] == "ok"
    alarm = get(service, "integrity", auditor).json()["alarm"]
    assert (alarm["kind"], alarm["position"]) == ("changed", 40)
    until(
        lambda: "keyledger_audit_alarm 1.0" in requests.get(f"{service.url}/metrics", timeout=60).text,
        what="the metric",
    )
    # The alarm can't be acknowledged until the log is intact again.
    checked = service.run("audit", "check", "--acknowledge")
    assert checked.returncode == 1
    assert "changed (2), first at 40" in checked.stdout
    assert get(service, "integrity", auditor).json()["alarm"]["position"] == 40
