"""Restoring a Keyledger with a lost store from a backup, with the operator's commands."""

from pathlib import Path
from typing import NamedTuple

import pytest

from services.audit.log.entry import Entry
from services.audit.log.store import AuditLog, StoredCheckpoint
from tests.e2e.test_api import Caller, Json, create
from tests.e2e.test_export_and_import import audited, refusal
from tests.support.runbooks import follow
from tests.support.service import Service
from tests.support.web_client import Visitor

PASSWORD = "a password that is long"


def verdict(service: Service, admin: str, key: str) -> str:
    code: str = Caller(service, admin)("POST", "/v1/keys/verify", json={"api_key": key}).json()["code"]
    return code


def checkpoints(service: Service) -> list[StoredCheckpoint]:
    log = AuditLog(service.audit_database)
    try:
        return log.checkpoints()
    finally:
        log.close()


class Lost(NamedTuple):
    """A Keyledger whose store is about to be lost, and what it contained."""

    service: Service
    places: dict[str, str]  # of backups and keys, as the runbook calls them
    admin: str
    on: str
    off: str
    people: dict[str, str]
    listed: Json
    printed: str
    entries: list[Entry]
    checkpoints: list[StoredCheckpoint]

    @property
    def backup(self) -> Path:
        return Path(self.places["BACKUP"])


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    directory = tmp_path_factory.mktemp("lost")
    places = {name: str(directory / name) for name in ("BACKUPS", "KEYS")}
    for place in places.values():
        Path(place).mkdir()
    service = Service(directory / "data")
    service.start()
    admin = service.key("keyledger:admin")
    caller = Caller(service, admin)
    on, off = (create(caller, name=name) for name in ("on", "off"))
    assert caller("PATCH", f"/v1/keys/{off['id']}", json={"enabled": False, "reason": "leaked"}).ok
    assert service.run("audit", "checkpoint").returncode == 0
    service.account("ann@example.org", "auditor", PASSWORD)
    entries = audited(service, 6)
    assert follow(service, "Backup", **places) == 0
    assert follow(service, "The signing key", **places) == 0
    (backup,) = Path(places["BACKUPS"]).iterdir()
    found = Lost(
        service=service,
        places=places | {"BACKUP": str(backup)},
        admin=admin,
        on=on["api_key"],
        off=off["api_key"],
        people=dict([service.sign_in(), ("ann@example.org", PASSWORD)]),
        listed=caller("GET", "/v1/keys").json(),
        printed=service.run("key", "list", "--json").stdout,
        entries=entries,
        checkpoints=checkpoints(service),
    )
    assert found.checkpoints
    assert service.stop() == 0
    return found


@pytest.mark.drill
def test_the_runbook_restores_a_backup_into_a_temporary_directory(lost: Lost) -> None:
    assert follow(lost.service, "Test a backup", **lost.places) == 0


@pytest.mark.drill
def test_the_runbook_restores_a_lost_store_completely(lost: Lost) -> None:
    service = lost.service
    assert follow(service, "The store is lost") == 0
    assert follow(service, "Restore it", **lost.places) == 0
    assert checkpoints(service) == lost.checkpoints
    printed = service.output
    service.start()
    assert "password" not in service.output.removeprefix(printed)
    # The entry after these is the event of the restored log's successful check.
    assert audited(service, 7)[:6] == lost.entries
    assert Caller(service, lost.admin)("GET", "/v1/keys").json() == lost.listed
    assert service.run("key", "list", "--json").stdout == lost.printed
    assert [verdict(service, lost.admin, key) for key in (lost.on, lost.off)] == ["VALID", "DISABLED"]
    for email, password in lost.people.items():
        assert Visitor(service.url).sign_in(email, password).status_code == 303
    assert "Keyledger is running on this store" in refusal(service.run("restore", str(lost.backup)))
    assert service.stop() == 0


@pytest.mark.drill
def test_the_runbook_restores_a_backup_without_the_signing_key(lost: Lost, tmp_path: Path) -> None:
    new = Service(tmp_path / "new")
    assert f"{new.data_dir / 'audit_key.pem'} is missing" in refusal(new.run("restore", str(lost.backup)))
    assert follow(new, "The signing key is lost too", **lost.places) == 0
    assert new.run("audit", "checkpoint").stdout.startswith("keyledger audit checkpoint v1\nsequence 1\n")
    assert audited(new, 6) == lost.entries
    assert new.run("audit", "check").returncode == 0


def test_a_backup_can_be_piped(tmp_path: Path) -> None:
    old, new = Service(tmp_path / "old"), Service(tmp_path / "new")
    old.make()
    words = ["account", "add", "ann@example.org", "--role", "owner", "--password-stdin"]
    assert old.run(*words, stdin=PASSWORD).returncode == 0
    taken = old.run("backup", "-")
    assert taken.stderr.splitlines() == [
        "Backed up 1 events, 0 checkpoints and 1 password hashes: keep it secret.",
        (
            f"Not included: sessions, usage counts, and {old.data_dir}/audit_key.pem. "
            "Back that file up separately."
        ),
    ]
    made = new.run("restore", "-", stdin=taken.stdout)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("Restored 1 events, 0 checkpoints and 1 password hashes, as of 2")
    assert "ann@example.org" in new.run("account", "list").stdout


@pytest.mark.drill
def test_an_impossible_backup_or_restore_is_refused_in_one_line(lost: Lost, tmp_path: Path) -> None:
    new, file, whole = Service(tmp_path / "new"), tmp_path / "file", lost.backup.read_bytes()
    new.make()
    assert "can't be written: No such file" in refusal(new.run("backup", str(tmp_path / "no" / "file")))
    assert "can't be read: No such file" in refusal(new.run("restore", str(tmp_path / "nothing")))
    assert new.run("export", str(file)).returncode == 0
    assert "`keyledger import`" in refusal(new.run("restore", str(file)))
    file.write_bytes(whole[:-1])
    assert "isn't a complete backup." in refusal(new.run("restore", str(file)))
    file.write_bytes(whole)
    file.chmod(0o644)
    done = new.run("restore", str(file), "--without-checkpoints")
    assert done.returncode == 0
    assert done.stderr == f"Others can read {file}, which has password hashes: `chmod 600 {file}`.\n"
