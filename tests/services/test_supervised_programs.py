"""What `keyledger up` starts its processes with."""

import subprocess
from pathlib import Path

import pytest

from services.runtime.up import _programs
from shared.settings import Settings


def test_a_package_in_the_current_directory_is_not_imported_in_place_of_our_own(tmp_path: Path) -> None:
    for name in ("services", "shared", "redis", "logging"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from here')")
    process, *_ = _programs(Settings.from_environment())
    ended = subprocess.run(
        [*process.argv, "--help"], cwd=tmp_path, env=process.env, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "projector" in ended.stdout


def test_an_empty_log_format_is_text_for_what_up_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, meant in {"": "text", " ": "text", "json": "json"}.items():
        monkeypatch.setenv("KEYLEDGER_LOG_FORMAT", given)
        for process in _programs(Settings.from_environment()):
            assert process.env
            assert process.env["KEYLEDGER_LOG_FORMAT"] == meant
