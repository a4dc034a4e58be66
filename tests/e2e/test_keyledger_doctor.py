"""`keyledger doctor` on a complete Keyledger, as an operator runs it."""

import json
from pathlib import Path

from services.doctor.examination import all_checks
from services.runtime.manifests import MANIFESTS
from shared.service.checks import Concern
from tests.support.processes import free_port, until
from tests.support.service import Service

CANARY = "c4nary"


def files(directory: Path) -> dict[Path, int]:
    """Each file and its modification time."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def wrong(service: Service) -> set[str]:
    """The failing checks, except the disk, which depends on the test machine."""
    ended = service.run("doctor", "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode == 0) == told["ok"]
    assert {finding["check"] for finding in told["findings"]} >= {
        check.name for check in all_checks(MANIFESTS) if Concern.DOCTOR in check.concerns
    } - {
        "replicas",
        "database clock",
    }
    return {finding["check"] for finding in told["findings"] if finding["level"] != "ok"} - {"disk"}


def test_a_healthy_keyledger_passes_and_a_stopped_one_is_not_started(data_dir: Path) -> None:
    service = Service(data_dir)
    service.start()
    try:
        service.key("keyledger:admin")
        until(lambda: not wrong(service), what="that all is well")
    finally:
        assert service.stop() == 0

    before = files(data_dir)
    stopped = service.run("doctor")
    assert stopped.returncode == 0
    assert "skipped  store           not running; `keyledger up` starts it\n" in stopped.stdout
    assert "PostgreSQL" in stopped.stdout or f"reads {data_dir}/audit.db" in stopped.stdout
    assert files(data_dir) == before
    assert not service.processes()


def test_a_problem_sets_the_exit_status_and_no_secret_is_printed(data_dir: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    service = Service(
        data_dir,
        KEYLEDGER_REDIS_URL=f"redis://{CANARY}:{CANARY}@{nobody}/0?password={CANARY}",
        KEYLEDGER_AUDIT_DATABASE_URL=f"postgresql://me:{CANARY}@{nobody}/keyledger",
        KEYLEDGER_SECRET_KEY=CANARY,
        KEYLEDGER_ALOW_UNSAFE_STORE=CANARY,
        KEYLEDGER_PORT=CANARY,
    )
    for arguments in (["doctor"], ["doctor", "--json"]):
        ended = service.run(*arguments)
        assert (ended.returncode, ended.stderr) == (1, "")
        assert "KEYLEDGER_ALLOW_UNSAFE_STORE?" in ended.stdout
        assert CANARY not in ended.stdout
    assert not data_dir.exists()
