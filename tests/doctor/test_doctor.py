"""The doctor's checks of settings, files and disks, and its output."""

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.audit.integrity.signer import Signer
from services.cli.doctor import doctor_command
from services.doctor.access import is_loopback
from services.doctor.disk import check_disk, room
from services.doctor.environment import read_settings
from services.doctor.examination import CheckResult, all_checks, examine
from services.doctor.files import check_files
from services.doctor.settings import _KNOWN, check_settings, check_versions
from services.runtime.manifests import MANIFESTS
from shared.service.checks import Concern, Level, ok, problem, skipped, warning
from shared.service.clocks import skewed
from shared.store.embedded import EmbeddedServer
from tests.support.examinations import examined, expect, expect_ok
from tests.support.processes import free_port

CANARY = "c4nary"  # a secret that nobody may be told
MIB, GIB = 1024**2, 1024**3


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("KEYLEDGER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory as `keyledger up` creates it, with its secret files."""
    made = EmbeddedServer.in_directory(tmp_path / "data").data_dir
    _ = Signer(made / "audit_key.pem").public_key
    (made / "secret_key").touch(0o600)
    return made


def test_valid_settings_pass_and_non_default_ones_are_listed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with examined(data_dir) as installation:
        expect_ok(check_settings(installation), "all by default")
        monkeypatch.setenv("KEYLEDGER_PORT", "8001")
        expect_ok(check_settings(installation), "KEYLEDGER_PORT set, the rest by default")


def test_every_invalid_setting_is_reported_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLEDGER_PORT", "http")
    monkeypatch.setenv("KEYLEDGER_SIGN_IN_LIMIT", "often")
    monkeypatch.setenv("KEYLEDGER_KEY_PREFIX", "mine")
    settings, unusable = read_settings()
    assert (settings.port, settings.key_prefix) == (8000, "mine")
    first, second = unusable
    assert "KEYLEDGER_PORT" in first.found
    assert "KEYLEDGER_SIGN_IN_LIMIT" in second.found
    assert {first.level, second.level} == {Level.PROBLEM}
    assert os.environ["KEYLEDGER_PORT"] == "http"


def test_a_missing_secret_key_does_not_hide_the_store_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLEDGER_REDIS_URL", "redis://127.0.0.1:1/0")
    settings, unusable = read_settings()
    assert settings.redis_url == "redis://127.0.0.1:1/0"
    expect(unusable, Level.PROBLEM, "KEYLEDGER_SECRET_KEY is not set", "Correct it")


def test_an_unknown_setting_is_reported_with_the_closest_match(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYLEDGER_AUDIT_DATABSE_URL", CANARY)
    with examined(data_dir) as installation:
        findings = [*check_settings(installation)]
    expect(
        findings,
        Level.WARNING,
        "KEYLEDGER_AUDIT_DATABSE_URL isn't a setting",
        "Did you mean KEYLEDGER_AUDIT_DATABASE_URL?",
    )
    assert CANARY not in str(findings)


def test_every_setting_in_the_compose_file_is_known() -> None:
    named = set(re.findall(r"KEYLEDGER_[A-Z_]+", Path("docker-compose.yml").read_text()))
    assert {"KEYLEDGER_SECRET_KEY_FILE", "KEYLEDGER_AUDIT_KEY_FILE"} <= named <= _KNOWN


def test_a_short_secret_key_is_a_single_problem_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLEDGER_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", CANARY)
    settings, unusable = read_settings()
    assert settings.redis_url == "redis://127.0.0.1:1/0"
    expect(unusable, Level.PROBLEM, "KEYLEDGER_SECRET_KEY has fewer than 32", "Correct it")
    assert CANARY not in str(unusable)


def test_allowing_an_unsafe_store_is_a_warning(data_dir: Path) -> None:
    with examined(data_dir, allow_unsafe_store=True) as installation:
        expect(check_settings(installation), Level.WARNING, "KEYLEDGER_ALLOW_UNSAFE_STORE", "Unset it")


def test_listening_on_all_interfaces_without_a_proxy_is_a_warning(data_dir: Path) -> None:
    with examined(data_dir, host="::") as installation:
        expect(check_settings(installation), Level.WARNING, "listen on ::", "KEYLEDGER_TRUSTED_PROXIES")
    with examined(data_dir, host="::", trusted_proxies=1) as installation:
        expect_ok(check_settings(installation), "all by default")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.1", False), ("::", False)],
)
def test_loopback_hosts_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_an_invalid_host_is_not_treated_as_loopback() -> None:
    assert not is_loopback("a" * 70)


def test_versions_are_reported(data_dir: Path) -> None:
    with examined(data_dir) as installation:
        expect_ok(check_versions(installation), "Keyledger 0.")


def test_private_file_permissions_pass(data_dir: Path) -> None:
    with examined(data_dir) as installation:
        directory, key = check_files(installation)
    assert directory == ok(f"the data directory {data_dir} is closed to others")
    assert key.found.startswith(f"{data_dir}/audit_key.pem signs for the audit log as keyledger-audit+")


@pytest.mark.parametrize("name", [".", "audit_key.pem", "secret_key"])
@pytest.mark.parametrize(
    ("mode", "level", "who"),
    [(0o755, Level.PROBLEM, "everyone on this machine"), (0o750, Level.WARNING, "its group")],
)
def test_a_file_accessible_to_other_users_is_reported(
    data_dir: Path, name: str, mode: int, level: Level, who: str
) -> None:
    (data_dir / name).chmod(mode)
    with examined(data_dir) as installation:
        expect(check_files(installation), level, f"open to {who} (mode {mode:04o})", "chmod go= ")


def test_an_invalid_audit_key_is_reported_without_its_content(data_dir: Path) -> None:
    (data_dir / "audit_key.pem").write_text(CANARY)
    with examined(data_dir) as installation:
        findings = [*check_files(installation)]
    expect(findings, Level.PROBLEM, "doesn't have an Ed25519 private key", "from a copy")
    assert CANARY not in str(findings)


def test_an_unreadable_audit_key_is_reported(data_dir: Path) -> None:
    (data_dir / "audit_key.pem").unlink()
    (data_dir / "audit_key.pem").mkdir(0o700)
    with examined(data_dir) as installation:
        expect(check_files(installation), Level.PROBLEM, "Is a directory", "from a copy")


def test_a_missing_audit_key_is_reported_and_not_replaced(data_dir: Path) -> None:
    (data_dir / "audit_key.pem").rename(data_dir / "audit_key.pem.last")
    with examined(data_dir) as installation:
        expect(
            check_files(installation),
            Level.PROBLEM,
            "audit_key.pem, which signed for the audit log, is missing",
            "from a copy",
        )
    assert not (data_dir / "audit_key.pem").exists()


def test_a_file_in_place_of_the_data_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with examined(tmp_path / "data") as installation:
        expect(check_files(installation), Level.PROBLEM, "isn't a directory", "KEYLEDGER_DATA_DIR")


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_a_keyledger_is_a_warning(tmp_path: Path, exists: bool) -> None:
    directory = tmp_path if exists else tmp_path / "data"
    with examined(directory) as installation:
        expect(check_files(installation), Level.WARNING, f"no Keyledger in {directory}", "`keyledger up`")


def test_an_inaccessible_data_directory_is_reported(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # for root, as which tests may run, has all rights
    with examined(data_dir) as installation:
        expect(check_files(installation), Level.PROBLEM, "this user can't open", "as the user that")


def test_an_unused_data_directory_is_not_required(tmp_path: Path) -> None:
    elsewhere = {"redis_url": "redis://127.0.0.1:1", "audit_database_url": "postgresql://127.0.0.1:1/none"}
    with examined(tmp_path / "data", audit_key_file=tmp_path / "key", **elsewhere) as installation:
        expect_ok(check_files(installation), "key doesn't exist yet")
        assert not [*check_disk(installation)]


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [
        (63 * MIB, GIB, Level.PROBLEM),
        (65 * MIB, GIB, Level.WARNING),
        (GIB, 11 * GIB, Level.WARNING),
        (2 * GIB, 11 * GIB, Level.OK),
    ],
)
def test_low_disk_space_is_reported_before_the_disk_is_full(free: int, total: int, level: Level) -> None:
    found = room(Path("/data"), free, total)
    assert found.level is level
    assert found.found.endswith("are free at /data")
    assert (found.advice is None) == (level is Level.OK)


def test_the_disks_of_the_store_and_the_database_are_checked(data_dir: Path, tmp_path: Path) -> None:
    with examined(data_dir, audit_database_url=f"sqlite:///{tmp_path}/not/yet/audit.db") as installation:
        store, database = check_disk(installation)
    assert store.found.endswith(f"free at {data_dir}")
    assert database.found.endswith(f"free at {tmp_path}/not/yet")


@pytest.mark.parametrize(
    ("ms", "level"),
    [(900.0, Level.OK), (-900.0, Level.OK), (-1500.0, Level.WARNING), (7_000.0, Level.PROBLEM)],
)
def test_clock_skew_is_reported(ms: float, level: Level) -> None:
    found = skewed(ms, "the store's")
    assert found.level is level
    assert (level is Level.OK) or ("ahead" if ms > 0 else "behind") in found.found


def test_a_stopped_store_skips_only_its_own_checks_and_nothing_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path / "data"))
    told = [*examine(all_checks(MANIFESTS))]
    assert {each.check for each in told} == {
        check.name for check in all_checks(MANIFESTS) if Concern.DOCTOR in check.concerns
    } - {"replicas", "database clock"}
    levels = {each.check: each.finding.level for each in told}
    assert {name for name, level in levels.items() if level is Level.OK} == {
        "settings",
        "versions",
        "files",
        "disk",
        "access",
        "database",
    }
    assert CheckResult("store", skipped("not running; `keyledger up` starts it")) in told
    assert CheckResult("ledger", skipped("not checked: the store is unavailable")) in told
    assert not (tmp_path / "data").exists()


def test_unreachable_services_skip_dependent_checks_and_leak_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    secrets = {"REDIS_URL": f"redis://me:{CANARY}@{nobody}/0", "SECRET_KEY": CANARY * 6}
    secrets["AUDIT_DATABASE_URL"] = f"postgresql://me:{CANARY}@{nobody}/keyledger?sslpassword={CANARY}"
    for name, value in secrets.items():
        monkeypatch.setenv(f"KEYLEDGER_{name}", value)
    told = [*examine(all_checks(MANIFESTS))]
    problems = {check: finding for check, finding in told if finding.level is Level.PROBLEM}
    assert problems.keys() == {"store", "database"}
    assert "does not answer" in problems["store"].found
    assert problems["store"].advice == "Start it, or correct KEYLEDGER_REDIS_URL."
    assert "Connection refused" in problems["database"].found
    assert problems["database"].advice == "Start it, or correct KEYLEDGER_AUDIT_DATABASE_URL."
    assert {"ledger", "views", "audit log", "queue", "clock", "database clock"} <= {
        check for check, finding in told if finding.level is Level.SKIPPED
    }
    assert CANARY not in str(told)


@pytest.mark.parametrize("setting", ["REDIS_URL", "AUDIT_DATABASE_URL"])
def test_an_invalid_url_is_reported_without_its_password(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", "s" * 32)
    monkeypatch.setenv(f"KEYLEDGER_{setting}", f"nonsense://me:{CANARY}@127.0.0.1:port")
    told = [*examine(all_checks(MANIFESTS))]
    expect((each.finding for each in told), Level.PROBLEM, f"KEYLEDGER_{setting}", "")
    assert CANARY not in str(told)


def test_external_text_is_stripped_of_passwords_and_control_characters() -> None:
    assert problem("a\x1b[31m\nb\x9b" + "c" * 500, "Do.").found == "a [31m b …"
    assert problem(f"no redis://me:{CANARY}@there", "Do.").found == "no redis://[password]@there"


TOLD = [
    CheckResult("store", ok("Valkey answers")),
    CheckResult("memory", warning("nearly full", "Raise it.")),
    CheckResult("ledger", problem("a gap", "Bring it back.")),
    CheckResult("views", skipped("not checked: why")),
]


@pytest.fixture
def _told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cli.doctor.examine", lambda _: iter(request.param))


@pytest.mark.parametrize("_told", [TOLD], indirect=True)
@pytest.mark.usefixtures("_told")
def test_each_finding_and_its_advice_are_printed_on_separate_lines() -> None:
    ended = CliRunner().invoke(doctor_command)
    assert ended.exit_code == 1
    assert ended.stdout.splitlines() == [
        "ok       store           Valkey answers",
        "warning  memory          nearly full",
        "                         → Raise it.",
        "problem  ledger          a gap",
        "                         → Bring it back.",
        "skipped  views           not checked: why",
        "",
        "1 problem and 1 warning; 1 check couldn't run.",
    ]


@pytest.mark.parametrize("_told", [TOLD], indirect=True)
@pytest.mark.usefixtures("_told")
def test_json_output_has_the_same_findings() -> None:
    ended = CliRunner().invoke(doctor_command, ["--json"])
    assert ended.exit_code == 1
    told = json.loads(ended.stdout)
    assert told["ok"] is False
    assert told["findings"][1:] == [
        {"check": "memory", "level": "warning", "found": "nearly full", "advice": "Raise it."},
        {"check": "ledger", "level": "problem", "found": "a gap", "advice": "Bring it back."},
        {"check": "views", "level": "skipped", "found": "not checked: why", "advice": None},
    ]


@pytest.mark.parametrize(
    ("_told", "summary"),
    [
        (TOLD[:1], "No problems found."),
        (TOLD[:2], "1 warning."),
        ([TOLD[0], TOLD[3], TOLD[3]], "No problems found; 2 checks couldn't run."),
    ],
    indirect=["_told"],
)
@pytest.mark.usefixtures("_told")
def test_only_a_problem_fails_the_command(summary: str) -> None:
    ended = CliRunner().invoke(doctor_command)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, summary)
    assert json.loads(CliRunner().invoke(doctor_command, ["--json"]).stdout)["ok"] is True


@pytest.mark.parametrize("_told", [TOLD], indirect=True)
@pytest.mark.usefixtures("_told")
def test_terminal_output_is_coloured_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in CliRunner().invoke(doctor_command, color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in CliRunner().invoke(doctor_command, color=True).stdout
