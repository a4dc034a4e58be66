"""Data of version 0.1.0, read by this version: a ledger, its views, its audit log and its signatures.

The fixtures were written by the code before its modules were grouped into packages.
"""

import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest

from services.keys.components import KeyComponents
from services.keys.model.key import Key
from services.keys.read_model.generations import Generation
from tests.support.processes import until
from tests.support.service import Service

EARLIER = Path(__file__).parents[1] / "fixtures"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())

# Rows had their values in this order, and today they have them in another.
_ROW = [
    "id",
    "workspace",
    "name",
    "description",
    "hint",
    "digest",
    "scopes",
    "expires_at",
    "previous_digest",
    "previous_expires_at",
    "enabled",
    "revoked",
    "created_at",
    "created_position",
    "created_by",
    "updated_at",
    "version",
    "created_by_kind",
]


def earlier_digest(views: Generation) -> str:
    """The sum of the SHA-256 of all entries, with rows as they were."""
    total = 0
    for name, value in views.entries():
        if name.startswith(b"key:"):
            key = msgspec.json.decode(value, type=Key)
            value = msgspec.json.encode([getattr(key, field) for field in _ROW])
        total += int.from_bytes(hashlib.sha256(len(name).to_bytes(4) + name + value).digest())
    return f"{total % 2**256:064x}"


@pytest.fixture
def imported(tmp_path: Path) -> Service:
    service = Service(tmp_path)
    assert service.run("import", str(EARLIER / "ledger.jsonl")).returncode == 0
    return service


def test_an_earlier_ledger_yields_the_same_keys_views_and_export(imported: Service) -> None:
    exported = imported.run("export").stdout
    assert exported.encode() == (EARLIER / "ledger.jsonl").read_bytes()
    imported.start()
    try:
        until(lambda: " 0 events" in imported.run("projector", "status").stdout, what="the views")
        assert json.loads(imported.run("key", "list", "--json").stdout) == EXPECTED["keys"]
        digests = re.findall(r"[0-9a-f]{64}", imported.run("replay", "--check").stdout)
        assert len(digests) == 2
        assert len(set(digests)) == 1
        with imported.components() as components:
            assert earlier_digest(components.of(KeyComponents).views.live()) == EXPECTED["views_digest"]
    finally:
        imported.stop()


def test_an_earlier_ledger_yields_the_same_audit_chain(imported: Service) -> None:
    chain = re.search(r"chain_hash ([0-9a-f]{64})", (EARLIER / "audit.jsonl").read_text())
    assert chain
    imported.start()
    try:
        until(
            lambda: f'"position": {EXPECTED["position"]}' in imported.run("audit", "status", "--json").stdout,
            what="the audit log",
        )
        assert chain[1] in imported.run("audit", "checkpoint").stdout
        assert imported.run("audit", "check").returncode == 0
    finally:
        imported.stop()


def test_an_earlier_signed_export_is_verified_and_tampering_is_found(tmp_path: Path) -> None:
    service = Service(tmp_path)
    key = (EARLIER / "audit.pub").read_text().strip()
    checked = service.run("audit", "check", "--file", str(EARLIER / "audit.jsonl"), "--public-key", key)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    changed = tmp_path / "changed.jsonl"
    changed.write_text((EARLIER / "audit.jsonl").read_text().replace("leaked", "leakeD", 1))
    assert service.run("audit", "check", "--file", str(changed), "--public-key", key).returncode == 1
