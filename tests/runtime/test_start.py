"""Invalid configuration stops startup with a one-line error; unusual but valid values are accepted."""

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from services.audit.components import AuditComponents
from services.audit.integrity.signer import SigningError
from services.audit.monitoring.inspection import AuditInspection
from services.runtime import up
from services.runtime.addresses import AddressError, free_address
from services.runtime.server import _secret_key
from shared.service.components import SharedComponents
from shared.settings import Settings
from shared.store.connections import (
    DataDirectoryError,
    ReadOnlyStoreError,
    StoreUnavailableError,
    connect,
    ensure_usable,
)
from shared.store.embedded import EmbeddedServer
from tests.shared.eventstore.test_export import toggled
from tests.support.examinations import configured, examined
from tests.support.processes import free_port
from tests.support.service import KEYLEDGER

ODD = [
    "a b",
    "a%20b",
    "a%2Fb",
    "a?mode=memory&uri=true",
    "a#b",
    "ä中",
    "a;b&c=d",
    "a\nb",
    os.fsdecode(b"a\xffb"),
]


def settings(data_dir: Path, **changed: object) -> Settings:
    """Returns the settings of a first start in a data directory, with changes."""
    return replace(Settings.from_environment(), data_dir=data_dir, **changed)  # type: ignore[arg-type]  # as named


@pytest.mark.parametrize("name", ODD)
def test_a_data_directory_with_special_characters_in_its_name_works(tmp_path: Path, name: str) -> None:
    server = EmbeddedServer.in_directory(tmp_path / name)
    with server.joined(), connect(server.url) as store:
        components = AuditComponents(SharedComponents(settings(tmp_path / name), server.url))
        ensure_usable(store)
        with closing(components.log):
            components.log.append([toggled(1)])
            with examined(tmp_path / name) as installation:
                assert installation.of(AuditInspection).log.last().position == 1
                assert installation.of(AuditInspection).database_file == tmp_path / name / "audit.db"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"audit.db", "store"} <= {path.name for path in (tmp_path / name).iterdir()}


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")],  # noqa: S104  # only a probe listens there
)
def test_the_host_is_resolved_to_the_ip_address_to_listen_on(host: str, address: str) -> None:
    assert free_address(host, free_port()) == address


@pytest.mark.parametrize(
    "host", ["nowhere.invalid", "a..b", "a" * 70, "a b", "127.0.0.1:80", "256.1.1.1", "192.0.2.1", "http://x"]
)
def test_an_unusable_host_is_rejected_with_the_name_of_its_setting(host: str) -> None:
    with pytest.raises(
        AddressError, match=r"^Can't listen on [^\n]*: set KEYLEDGER_HOST to [^\n]*$"
    ) as refusal:
        free_address(host, free_port())
    assert "uses it" not in str(refusal.value)


def test_a_port_in_use_at_a_hosts_ip_address_is_rejected() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(AddressError, match=r"in use.* a free port"),
    ):
        free_address("localhost", other.getsockname()[1])


def test_a_metrics_port_in_use_prevents_startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "supervise", lambda *_, **__: pytest.fail("It was started."))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        chosen = settings(tmp_path, host="127.0.0.1", port=free_port(), metrics_port=port)
        with pytest.raises(AddressError, match=r"in use.* set KEYLEDGER_METRICS_PORT to a free port"):
            up.run_everything(chosen)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "Is a directory"),
        (Path.touch, "fewer than 32 characters: remove it"),
        (lambda path: path.write_text("short"), "fewer than 32 characters: remove it"),
        (lambda path: path.symlink_to(path), "levels"),
    ],
)
def test_an_unusable_secret_key_file_is_rejected_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "secret_key")
    with pytest.raises(DataDirectoryError, match=rf"secret_key .*{words}"):
        _secret_key(settings(tmp_path))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        *(("decode_responses=true", True), ("protocol=3", True), ("retry_on_timeout=1", True)),
        *(("encoding=latin-1", True), ("decode_responses=", True), ("socket_timeout=60", True)),
        *(("ss=word@host", False), ("no_such_option=1", False)),
    ],
)
def test_unsupported_options_in_the_store_url_are_rejected(option: str, named: bool) -> None:
    with pytest.raises(StoreUnavailableError, match="KEYLEDGER_REDIS_URL has") as refusal:
        connect(f"redis://127.0.0.1:1/0?db=1&{option}")
    assert (f"the option {option.partition('=')[0]}," in str(refusal.value)) == named
    connect("rediss://user@127.0.0.1:1/0?db=1&client_name=k&ssl_cert_reqs=none&password=p")


@pytest.mark.parametrize("path", ["/abc", "/0x", "/-1", "/1/2", "/٣"])
def test_a_store_url_with_a_non_numeric_database_is_rejected(path: str) -> None:
    with pytest.raises(StoreUnavailableError, match="KEYLEDGER_REDIS_URL cannot be read"):
        connect(f"redis://127.0.0.1:1{path}")
    connect("redis://127.0.0.1:1/15")
    connect("redis://127.0.0.1:1")


@pytest.mark.parametrize("content", [None, "no key"])
def test_an_unusable_audit_key_prevents_startup(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys" / "audit.pem"
    if content:
        file.parent.mkdir()
        file.write_text(content)
    monkeypatch.setattr(up, "supervise", lambda *_, **__: pytest.fail("It was started."))
    with pytest.raises(SigningError, match=f"{file}"):
        up.run_everything(settings(tmp_path / "data", audit_key_file=file, port=free_port()))


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.parametrize(
    ("commands", "keys"),
    [
        (["+@all", "-@write"], "*"),
        (["+@all", "-xadd"], "*"),
        (["+@all"], "other:*"),
        (["+@all", "-eval"], "*"),
    ],
)
def test_a_store_user_without_write_access_is_rejected_in_one_line(
    kind: str, request: pytest.FixtureRequest, commands: list[str], keys: str
) -> None:
    plain = request.getfixturevalue(f"{kind}_url")
    url = plain.replace("unix://", "unix://reader:any@")
    store = connect(plain)
    store.acl_setuser("reader", enabled=True, nopass=True, channels=["*"], commands=commands, keys=[keys])
    try:
        with (
            connect(url) as reader,
            pytest.raises(ReadOnlyStoreError, match=r"does not let its user write[^\n]*$"),
        ):
            ensure_usable(reader)
    finally:
        store.acl_deluser("reader")
        store.close()


def test_a_replica_is_rejected_but_a_full_store_is_accepted(store: Redis) -> None:
    with configured(store, maxmemory=str(store.info("memory")["used_memory"] // 2)):
        ensure_usable(store)
    store.replicaof("127.0.0.1", str(free_port()))
    try:
        with pytest.raises(ReadOnlyStoreError, match="is a replica: name its primary"):
            ensure_usable(store)
    finally:
        store.replicaof("NO", "ONE")
    assert not store.dbsize()


@pytest.mark.parametrize("relative", [True, False])
def test_a_deleted_working_directory_only_breaks_relative_paths(tmp_path: Path, relative: bool) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = os.environ | {"KEYLEDGER_DATA_DIR": "data" if relative else str(tmp_path / "data")}
    command = f'cd "$1" && rmdir "$1" && exec {KEYLEDGER} key list'
    ended = subprocess.run(
        ["/bin/sh", "-c", command, "sh", gone], env=environment, capture_output=True, text=True, check=False
    )
    assert ("cannot be resolved" in ended.stderr) == relative
    assert len(ended.stderr.splitlines()) <= 1
    assert ended.returncode == 1 or not relative
