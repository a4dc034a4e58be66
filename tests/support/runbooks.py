"""Runs the commands of the runbooks."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.service import Service

_RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"


def follow(service: Service, heading: str, **settings: str) -> int:
    """Runs the commands under a heading, and returns the exit status."""
    part = re.search(rf"(?ms)^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", _RUNBOOKS.read_text())
    assert part, heading
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", part[1])
    assert blocks, f"no commands under {heading}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", "\n".join(blocks)],
        env=service.environment | settings | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    print(f"\n{heading}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode
