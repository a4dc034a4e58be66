"""The delay between the acknowledgement of a command and its event being visible in the views."""

import os
import subprocess
import sys
from collections.abc import Iterator

from bench.delays import measured
from bench.figures import Figure
from bench.store import fresh_store
from services.keys.read_model.generations import Views
from shared.store.connections import connect

_REST_S = 0.0005


def figures() -> Iterator[Figure]:
    """Measures with the projector as a separate process."""
    with fresh_store() as url, connect(url) as writing, connect(url) as reading:
        environment = os.environ | {"KEYLEDGER_REDIS_URL": url, "KEYLEDGER_SECRET_KEY": "s" * 32}
        command = [sys.executable, "-m", "services.cli", "projector"]
        views = Views(reading)
        with subprocess.Popen(command, env=environment) as projector:
            try:
                yield from measured(
                    "visible in the views", writing, lambda: views.live().checkpoint().position, _REST_S
                )
            finally:
                projector.terminate()
