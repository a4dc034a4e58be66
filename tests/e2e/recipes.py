"""The documentation's code blocks, adapted to the test environment and run in a shell."""

import os
import subprocess
import sys
from pathlib import Path

from tests import documents
from tests.support.service import Service

RECIPES = documents.DOCS / "recipes"


def blocks(recipe: str, language: str) -> list[str]:
    """Returns a recipe's code blocks in this language, in order."""
    found = [block.code for block in documents.blocks(RECIPES / recipe, language)]
    assert found, f"{recipe} has no {language}"
    return found


def fitted(block: str, places: dict[str, str]) -> str:
    """Replaces placeholders in a block. Each must occur exactly once."""
    for written, own in places.items():
        assert block.count(written) == 1, f"{written!r} is {block.count(written)} times in\n{block}"
        block = block.replace(written, own)
    return block


def run(service: Service, script: str, directory: Path, **variables: str) -> str:
    """Runs a script in a directory, in a shell like the reader's, and returns its output."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -euo pipefail\n{script}"],
        env=service.environment | {"PATH": programs} | variables,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
