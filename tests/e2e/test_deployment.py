"""docker-compose.yml, as far as it can be tried without an engine: its very commands, as plain processes."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.embedded import EmbeddedServer
from tests.real import KEYLEDGER, Service, served, until

COMPOSE: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "keyledger"}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kl-") as name:
        yield Path(name)


@pytest.fixture
def database_url(postgresql_server: str) -> str:
    """A database that is new."""
    with psycopg.connect(
        f"postgresql://keyledger@/postgres?host={postgresql_server}", autocommit=True
    ) as server:
        server.execute("CREATE DATABASE deployed")
    return f"postgresql://keyledger@/deployed?host={postgresql_server}"


@pytest.fixture
def deployed(directory: Path, database_url: str) -> Iterator[Service]:
    """Store, database and every process of ours, by the commands and settings of the Compose file."""
    valkey = EmbeddedServer.in_directory(directory / "unused").command[0]
    socket = directory / "store.sock"
    here = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory)]
    settings = OURS["web"]["environment"] | {
        "KEYLEDGER_REDIS_URL": f"unix://{socket}",
        "KEYLEDGER_AUDIT_DATABASE_URL": database_url,
        "KEYLEDGER_SECRET_KEY": "a secret of 32 characters at least",
        "KEYLEDGER_HOST": "127.0.0.1",
        "KEYLEDGER_AUDIT_KEY_FILE": str(_key_file(directory)),
    }
    del settings["KEYLEDGER_PORT"]
    service = Service(directory / "data", **settings)
    with ExitStack() as stack:
        store = [valkey, *SERVICES["store"]["command"][1:], *here]
        stack.enter_context(served(store, settings["KEYLEDGER_REDIS_URL"]))
        for ours in OURS.values():
            process = subprocess.Popen([KEYLEDGER, *ours["command"]], env=service.environment)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        until(lambda: _ready(service.url), 30, "readiness")
        yield service


def _key_file(directory: Path) -> Path:
    """A key as `openssl genpkey` makes it, in a directory that is not written to."""
    mounted = directory / "secrets"
    mounted.mkdir()
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (mounted / "audit_key").write_bytes(content)
    mounted.chmod(0o500)
    return mounted / "audit_key"


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_the_deployment_does_the_whole_job(deployed: Service) -> None:
    added = deployed.run(
        "account", "add", "you@example.org", "--role", "owner", "--password-stdin", stdin="a long password\n"
    )
    assert added.returncode == 0, added.stderr
    bearer = {"Authorization": f"Bearer {deployed.key('keyledger:admin')}"}
    made = requests.post(f"{deployed.url}/v1/keys", json={"name": "Web"}, headers=bearer, timeout=5)
    assert made.status_code == 201
    listed = requests.get(f"{deployed.url}/v1/keys?after=3", headers=bearer, timeout=5).json()["keys"]
    assert listed[0]["name"] == "Web"
    entries = f"{deployed.url}/v1/audit/entries?key_id={made.json()['id']}"
    until(lambda: requests.get(entries, headers=bearer, timeout=5).json()["entries"], 2, "the audit entry")
    assert deployed.run("audit", "check").returncode == 0
    checkpoint = deployed.run("audit", "checkpoint").stdout
    assert checkpoint.startswith("keyledger audit checkpoint v1\n")
    assert not (deployed.data_dir / "store").exists()


def test_the_store_of_the_deployment_keeps_what_it_acknowledged() -> None:
    words = SERVICES["store"]["command"][1:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--no-appendfsync-on-rewrite"] == "no"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "store:/data" in SERVICES["store"]["volumes"]


def test_each_process_is_a_service_of_its_own_without_rights_it_does_not_need() -> None:
    commands = {name: service["command"] for name, service in OURS.items()}
    assert commands == {
        "web": ["web"],
        "projector": ["projector"],
        "audit-relay": ["audit", "relay"],
        "audit-worker": ["audit", "worker"],
    }
    for service in OURS.values():
        assert service["user"] == "10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert COMPOSE["secrets"] == {"audit_key": {"file": "./audit_key.pem"}}
    has_key = {name for name, service in OURS.items() if service.get("secrets") == ["audit_key"]}
    assert has_key == {"web", "audit-relay", "audit-worker"}
    assert all("healthcheck" in SERVICES[name] for name in ("store", "database", "web"))
    assert SERVICES["web"]["ports"] == ["127.0.0.1:8000:8000"]
