"""A copy of the source, to change it and to run scripts with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def copy_source(directory: Path) -> None:
    """Copies the code, its tests, and the files that they read."""
    for folder in ("deploy", "docs", "services", "shared", "tests"):
        shutil.copytree(_ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))


def run_script(directory: Path, script: str) -> None:
    """Runs a script with the copy's code. Fails if the script does."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
