"""A temporary store for the benchmarks: the embedded Valkey with fsync always."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.store.embedded import EmbeddedServer
from tests.support.processes import answers, until


@contextmanager
def fresh_store() -> Iterator[str]:
    """Runs an empty store, and yields its URL."""
    with tempfile.TemporaryDirectory(prefix="kl-bench-") as directory:
        server = EmbeddedServer.in_directory(Path(directory))
        with subprocess.Popen(server.command, stdout=subprocess.DEVNULL) as process:
            try:
                until(lambda: answers(server.url))
                yield server.url
            finally:
                process.terminate()
