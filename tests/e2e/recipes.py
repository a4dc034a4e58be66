"""The documentation, as who follows it has it: its blocks fitted to where they are, and run in a shell."""

import os
import subprocess
import sys
from pathlib import Path

from tests import documents
from tests.real import Service

RECIPES = documents.DOCS / "recipes"


def blocks(recipe: str, language: str) -> list[str]:
    """The blocks of code in a recipe that are in this language, in their order."""
    found = [block.code for block in documents.blocks(RECIPES / recipe, language)]
    assert found, f"{recipe} has no {language}"
    return found


def fitted(block: str, places: dict[str, str]) -> str:
    """The block with what everybody has to replace by their own, which has to be in it exactly once."""
    for written, own in places.items():
        assert block.count(written) == 1, f"{written!r} is {block.count(written)} times in\n{block}"
        block = block.replace(written, own)
    return block


def run(service: Service, script: str, directory: Path, **variables: str) -> str:
    """What a script prints in a directory, in a shell like that of whoever reads the documents."""
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
