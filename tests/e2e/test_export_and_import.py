"""Moving from one data directory to another with the operator's commands."""

import subprocess
from pathlib import Path

import pytest
from redis import Redis

from services.audit.log.entry import Entry
from services.audit.log.store import AuditLog
from shared.eventstore.cloudevents import lines
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.backup.test_transfer import content
from tests.e2e.test_api import Caller, create
from tests.shared.eventstore.test_export import FOUR, toggled
from tests.support.processes import until
from tests.support.service import Service
from tests.support.web_client import Visitor


def store_of(service: Service) -> Redis:
    return connect(EmbeddedServer.in_directory(service.data_dir).url)


def audited(service: Service, count: int) -> list[Entry]:
    """The audit log's entries with their hashes, once it has this many."""
    log = AuditLog(service.audit_database)
    try:
        until(lambda: log.last().position == count, what="the audit log's last entry")
        return list(log.walk(count))
    finally:
        log.close()


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The single error line of a refused command."""
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


@pytest.mark.drill
def test_export_and_import_transfer_everything_except_passwords(tmp_path: Path) -> None:
    old, new = Service(tmp_path / "old"), Service(tmp_path / "new")
    file = tmp_path / "ledger.jsonl"
    old.start()
    token = old.key("keyledger:admin")
    caller = Caller(old, token)
    made = create(caller, name="Moved and «quoted»")
    assert caller("PATCH", f"/v1/keys/{made['id']}", json={"enabled": False, "reason": "leaked"}).ok
    with store_of(old) as store:
        strange = toggled(5, type="ThingTeleported", subject="thing:1", data={"to": "Mars"})
        store.xadd("{kl:0}:log", {"at": strange.at, "event": strange.body}, id="0-5")
        store.rpush("{kl:0}:subject:thing:1", 5)
        moved = content(store)
    printed = old.run("export").stdout
    file.write_text(printed)
    assert "argon2" not in printed
    assert old.sign_in()[1] not in printed
    checked = old.run("replay", "--check")
    entries = audited(old, 5)
    assert old.stop() == 0

    imported = new.run("import", str(file))
    assert imported.returncode == 0, imported.stderr
    assert "Imported 5 events" in imported.stdout
    assert "keyledger account password" in imported.stdout
    new.start()
    assert "password" not in new.output
    with store_of(new) as store:
        assert content(store) == moved
    assert new.run("replay", "--check").stdout == checked.stdout
    assert checked.stdout.endswith("equal\n")
    assert audited(new, 5) == entries
    assert new.run("audit", "check").returncode == 0
    listed = Caller(new, token)("GET", "/v1/keys").json()["keys"]
    assert [(key["name"], key["status"]) for key in listed] == [
        ("Moved and «quoted»", "inactive"),
        ("caller", "active"),
    ]
    assert "disabled" in Caller(new, made["api_key"])("GET", "/v1/keys").json()["detail"]
    email, password = old.sign_in()
    assert Visitor(new.url).sign_in(email, password).status_code == 422
    printed = new.run("account", "password", email).stdout.strip()
    assert Visitor(new.url).sign_in(email, printed).status_code == 303
    assert new.stop() == 0


def test_an_invalid_import_is_refused_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    file, service = tmp_path / "ledger.jsonl", Service(tmp_path / "data")
    whole = b"".join(FOUR)
    assert f"{file} can't be read: No such file" in refusal(service.run("import", str(file)))
    piped = service.run("import", "/dev/stdin", stdin=whole.decode())
    assert "it must be a file" in refusal(piped)
    file.write_bytes(whole[:-200])
    assert "Nothing was written." in refusal(service.run("import", str(file)))
    file.write_bytes(whole)
    assert service.run("import", str(file)).returncode == 0
    assert "The ledger isn't empty" in refusal(service.run("import", str(file)))


@pytest.mark.drill
def test_twenty_thousand_events_are_transferred_unchanged(tmp_path: Path) -> None:
    file, again, service = tmp_path / "ledger.jsonl", tmp_path / "again.jsonl", Service(tmp_path / "data")
    file.write_bytes(b"".join(lines(toggled(position) for position in range(1, 20_001))))
    assert service.run("import", str(file)).returncode == 0
    assert service.run("export", str(again)).returncode == 0
    assert again.read_bytes() == file.read_bytes()
