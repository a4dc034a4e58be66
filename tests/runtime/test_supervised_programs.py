"""The commands and environment of the processes that `keyledger up` starts."""

import subprocess
from pathlib import Path

import pytest

from services.runtime.up import _programs
from shared.settings import Settings


def test_packages_in_the_current_directory_do_not_shadow_our_own(tmp_path: Path) -> None:
    for name in ("services", "shared", "redis", "logging"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from here')")
    process, *_ = _programs(Settings.from_environment())
    ended = subprocess.run(
        [*process.argv, "--help"], cwd=tmp_path, env=process.env, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "projector" in ended.stdout


def test_processes_started_by_up_treat_an_empty_log_format_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, meant in {"": "text", " ": "text", "json": "json"}.items():
        monkeypatch.setenv("KEYLEDGER_LOG_FORMAT", given)
        for process in _programs(Settings.from_environment()):
            assert process.env
            assert process.env["KEYLEDGER_LOG_FORMAT"] == meant
