"""`keyledger up` and related commands, as an operator runs them in a terminal."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from services.audit.log.store import AuditLog
from services.keys.model.token import parse
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.processes import free_port, need, until
from tests.support.service import Service
from tests.support.stores import everything


def refusal(service: Service) -> str:
    """The single line that `up` prints when it refuses to start."""
    ended = service.run("up")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    return line


def test_a_port_in_use_is_refused_in_one_line(data_dir: Path) -> None:
    service = Service(data_dir)
    with socket.create_server(("127.0.0.1", service.port)):
        line = refusal(service)
    assert str(service.port) in line
    assert "KEYLEDGER_PORT" in line


def test_an_unwritable_data_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "KEYLEDGER_DATA_DIR" in refusal(Service(tmp_path / "file" / "data"))


def test_an_unreachable_store_is_refused_in_one_line(data_dir: Path) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"  # pragma: allowlist secret
    line = refusal(Service(data_dir, KEYLEDGER_REDIS_URL=url, KEYLEDGER_SECRET_KEY="s" * 32))
    assert "KEYLEDGER_REDIS_URL" in line
    assert "hunter2" not in line


def test_an_unsafe_store_is_refused_in_one_line_that_names_the_setting(
    data_dir: Path, short_tmp: Path
) -> None:
    binary = need(shutil.which("redis-server"), "redis-server")
    socket_path = short_tmp / "unsafe.sock"
    command = [binary, "--port", "0", "--unixsocket", str(socket_path), "--dir", str(short_tmp), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until(socket_path.exists)
        service = Service(
            data_dir, KEYLEDGER_REDIS_URL=f"unix://{socket_path}", KEYLEDGER_SECRET_KEY="s" * 32
        )
        line = refusal(service)
    finally:
        server.terminate()
        server.wait(10)
    assert "`appendonly yes`" in line
    assert "`appendfsync always`" in line


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("PORT", "http"),
        ("KEY_PREFIX", "_kl"),
        ("AUDIT_DATABASE_URL", "nonsense"),
        ("SIGN_IN_LIMIT", "often"),
        ("TRUSTED_PROXIES", "-1"),
        ("PORT", "99999"),
        ("HOST", "nowhere.invalid"),
    ],
)
def test_an_invalid_setting_is_refused_in_one_line_that_names_it(
    data_dir: Path, setting: str, value: str
) -> None:
    assert f"KEYLEDGER_{setting}" in refusal(Service(data_dir, **{f"KEYLEDGER_{setting}": value}))


def test_an_external_store_requires_a_secret_key(data_dir: Path) -> None:
    line = refusal(Service(data_dir, KEYLEDGER_REDIS_URL="redis://127.0.0.1:1/0"))
    assert "KEYLEDGER_SECRET_KEY" in line


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("running") / "data")
    service.start()
    yield service
    service.stop()


def test_a_second_up_on_the_same_directory_is_refused_in_one_line(running: Service) -> None:
    second = Service(running.data_dir)
    assert "already runs" in refusal(second)
    assert running.is_ready()


@pytest.mark.drill
def test_data_survives_a_restart_and_the_first_password_is_printed_once(data_dir: Path) -> None:
    service = Service(data_dir)
    service.start()
    made = service.run("key", "create", "Kept", "--json")
    assert made.returncode == 0
    first_sign_in = service.sign_in()
    assert service.stop() == 0
    printed = service.output
    service.start()
    assert "password" not in service.output.removeprefix(printed)
    assert '"name": "Kept"' in service.run("key", "list", "--json").stdout
    assert service.stop() == 0
    assert printed.count(first_sign_in[1]) == 1


def test_a_very_deep_data_directory_works_and_stopping_ends_every_process(tmp_path: Path) -> None:
    service = Service(tmp_path / ("deep" * 30) / ("deeper" * 20) / "data")
    service.start()
    assert service.run("key", "create", "Deep").returncode == 0
    started = {service.pid(word) for word in ("valkey-server", "projector", "relay", "worker", "web")}
    assert len(started) == 5
    assert service.stop() == 0
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not service.processes()


@pytest.mark.drill
def test_the_command_line_works_while_keyledger_is_stopped(data_dir: Path) -> None:
    service = Service(data_dir)
    service.start()
    assert service.stop() == 0
    made = service.run("key", "create", "Alone", "--description", "d", "--scope", "orders:read")
    assert made.returncode == 0, made.stderr
    parse(made.stdout.removesuffix("\n"))  # the key and nothing else, so that a shell can take it
    listed = service.run("key", "list")
    assert "Alone" in listed.stdout
    key_id = listed.stdout.split("│")[1].strip() if "│" in listed.stdout else ""
    assert service.run("key", "disable", key_id, "--reason", "leaked").stdout.endswith("is disabled.\n")
    assert "Inactive" in service.run("key", "list").stdout
    assert service.run("key", "enable", key_id).stdout.endswith("is enabled.\n")
    rotated = service.run("key", "rotate", key_id, "--grace", "60").stdout.removesuffix("\n")
    assert (parse(rotated).id, rotated) == (key_id, rotated) != (key_id, made.stdout.removesuffix("\n"))
    assert service.run("key", "revoke", key_id, "--reason", "leaked").stdout.endswith("is revoked.\n")
    assert "permanently revoked" in service.run("key", "enable", key_id).stderr
    assert service.run("replay").returncode == 0
    assert "equal" in service.run("replay", "--check").stdout
    assert not service.processes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("key", "create", ""), "name: Enter a name"),
        (("key", "create", "n" * 101), "name: Use up to 100 characters"),
        (("key", "create", "n", "--scope", "Bad Scope"), "isn't a valid scope"),
        (("key", "disable", "000000000000"), "no key 000000000000"),
        (("account", "add", "nobody", "--role", "owner", "--password-stdin"), "e-mail"),
    ],
)
def test_a_command_line_error_is_reported_without_a_traceback(
    data_dir: Path, arguments: tuple[str, ...], words: str
) -> None:
    EmbeddedServer.in_directory(data_dir)
    ended = Service(data_dir).run(*arguments, stdin="a long password\n")
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["", "Ours", "a b", "a\n", "-", "a" * 65, "größe"])
def test_a_workspace_name_that_is_invalid_in_a_header_is_rejected(data_dir: Path, name: str) -> None:
    ended = Service(data_dir).run("key", "create", "n", "--workspace", name)
    assert ended.returncode == 2
    assert "isn't a valid workspace name" in ended.stderr


def test_an_account_added_at_the_command_line_can_sign_in(running: Service) -> None:
    added = running.run(
        "account",
        "add",
        "Dev@Example.org",
        "--role",
        "developer",
        "--password-stdin",
        stdin="a long password\n",
    )
    assert added.returncode == 0, added.stderr
    browser = requests.Session()
    form = browser.get(f"{running.url}/sign-in", timeout=60).text
    token = form.split('name="csrf_token" value="')[1].split('"')[0]
    typed = {"email": "dev@example.org", "password": "a long password", "csrf_token": token}
    assert browser.post(f"{running.url}/sign-in", data=typed, timeout=60).url.endswith("/keys")


@pytest.mark.drill
def test_a_replay_rebuilds_deleted_views(running: Service) -> None:
    for number in range(3):
        assert running.run("key", "create", f"Key {number}").returncode == 0
    before = running.run("key", "list", "--json").stdout
    with connect(EmbeddedServer.in_directory(running.data_dir).url) as store:
        views = [*store.scan_iter("{kl:0}:view:*")]
        assert views
        store.delete(*views)
    replayed = running.run("replay")
    assert replayed.returncode == 0, replayed.stderr
    assert running.run("key", "list", "--json").stdout == before
    checked = running.run("replay", "--check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[-1] == "equal"


def test_a_replay_check_that_finds_a_difference_exits_with_status_1(running: Service) -> None:
    assert running.run("key", "create", "Changed").returncode == 0
    assert running.run("replay", "--check").returncode == 0
    with connect(EmbeddedServer.in_directory(running.data_dir).url) as store:
        rows = store.scan_iter("{kl:0}:view:*:key:*")
        row = next(row for row in rows if b"Changed" in store.get(row))
        store.set(row, store.get(row).replace(b"Changed", b"Forged!"))
    checked = running.run("replay", "--check")
    assert checked.returncode == 1
    assert "DIFFERENT" in checked.stdout
    assert row.decode().rsplit(":")[-1] in checked.stdout


def test_no_secret_is_stored_in_any_file_or_in_the_store(running: Service) -> None:
    """Uses keys, passwords and a session, then searches everything that is stored for them."""
    password = "correct horse battery staple"
    running.run("account", "add", "a@b", "--role", "owner", "--password-stdin", stdin=f"{password}\n")
    token = running.key("keyledger:admin")
    bearer = {"Authorization": f"Bearer {token}"}
    made = requests.post(f"{running.url}/v1/keys", json={"name": "Canary"}, headers=bearer, timeout=60).json()
    mistyped = made["api_key"][:-1] + "_"
    for wrong in (mistyped, made["api_key"]):
        requests.get(f"{running.url}/v1/keys", headers={"Authorization": f"Bearer {wrong}"}, timeout=60)
    browser = requests.Session()
    form = browser.get(f"{running.url}/sign-in", timeout=60).text
    csrf = form.split('name="csrf_token" value="')[1].split('"')[0]
    browser.post(
        f"{running.url}/sign-in", data={"email": "a@b", "password": password, "csrf_token": csrf}, timeout=5
    )
    (cookie,) = browser.cookies.values()
    until(lambda: running.run("audit", "check").returncode == 0)
    secrets = [token[:-7], made["api_key"][:-7], password, cookie, running.sign_in()[1]]

    with connect(EmbeddedServer.in_directory(running.data_dir).url) as store:
        kept = b"\n".join(everything(store))
    files = [path for path in running.data_dir.rglob("*") if path.is_file()]
    assert "secret_key" in {path.name for path in files}
    assert any(path.suffix == ".aof" for path in files)
    for path in files:
        kept += path.read_bytes()
    audit_log = AuditLog(running.audit_database)
    entries = [*audit_log.walk(audit_log.last().position)]
    audit_log.close()
    assert len(entries) > 3
    kept += repr(entries).encode()
    log = running.output.replace(running.sign_in()[1], "", 1)
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in log
    assert made["hint"].encode() in kept
