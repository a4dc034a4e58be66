"""Runs the services of docker-compose.yml as plain processes, with their commands, settings and order.

Only IP addresses, ports and paths differ, because everything runs on one machine without containers.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import requests
import yaml

from shared.store.embedded import EmbeddedServer
from tests.e2e.gateways import found
from tests.support.certificates import write_secrets
from tests.support.postgresql import PostgreSQL, postgresql_cluster
from tests.support.processes import free_port, need, until
from tests.support.service import KEYLEDGER

COMPOSE: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "keyledger"}
# As with `cap_drop`, except that root may access the database's socket in another user's directory.
_PLAIN = ["setpriv", "--bounding-set", "-all,+dac_override"] if os.geteuid() == 0 else []
WEBS = [name for name, service in OURS.items() if "web" in service["command"]]
NGINX = Path(COMPOSE["configs"]["gateway"]["file"])


class Deployment:
    """All processes, in one directory. `database` is the socket directory of a running cluster."""

    def __init__(self, directory: Path, database: str) -> None:
        self.directory = directory
        self.ports = {name: free_port() for name in ["gateway", "local", "store", *WEBS]}
        self.url = f"https://127.0.0.1:{self.ports['gateway']}"
        self.local_url = f"http://127.0.0.1:{self.ports['local']}"
        self.store_url = f"redis://127.0.0.1:{self.ports['store']}/0"
        self.certificate = str(directory / "secrets" / "tls_certificate")
        self._database = database
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        write_secrets(directory / "secrets", f"postgresql://keyledger@/keyledger?host={database}")

    def up(self, name: str = "gateway") -> None:
        """Starts a process once its dependencies are healthy. The gateway depends on most of them."""
        if name in self._running or name == "database":
            return
        needed = SERVICES[name].get("depends_on", {})
        for other in needed:
            self.up(other)
        for other in needed:
            self.wait_for(other)
        self.start(name)

    def start(self, name: str) -> None:
        """Starts a process without waiting for its dependencies."""
        if name == "database":
            PostgreSQL(self._database).start()
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            command, environment = self._command(name), self.environment(name)
            self._running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def end(self, name: str) -> float:
        """Stops a process as `docker compose stop` does, and returns the duration in seconds."""
        began = time.monotonic()
        if name == "database":
            PostgreSQL(self._database).stop("fast")
        else:
            process = self._running.pop(name)
            process.send_signal(signal.Signals[SERVICES[name].get("stop_signal", "SIGTERM")])
            assert process.wait(30) == 0, self.said(name)
        return time.monotonic() - began

    def reload_gateway(self) -> None:
        """Reloads the gateway as `nginx -s reload` does."""
        self._running["gateway"].send_signal(signal.SIGHUP)

    def wait_for(self, name: str) -> None:
        """Waits until the process's health check passes."""
        until(lambda: self.is_healthy(name), 60, f"health of {name}")

    def is_healthy(self, name: str) -> bool:
        """Returns whether the health check passes. Fails immediately if the process has exited."""
        assert name == "database" or self._running[name].poll() is None, self.said(name)
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = self._fitted(name, words)
        environment = self.environment(name)
        checked = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30)
        return checked.returncode == 0

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command as `docker compose run web-1` does."""
        return subprocess.run(
            [KEYLEDGER, *arguments],
            env=self.environment("web-1"),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def trust(self, client: requests.Session) -> None:
        """Makes a client trust the gateway's certificate."""
        client.verify = self.certificate
        client.trust_env = False  # it may contain other certificates

    def said(self, name: str) -> str:
        """Returns the output of a process."""
        return (self.directory / f"{name}.log").read_text()

    def pid(self, name: str) -> int:
        """Its process."""
        return self._running[name].pid

    def down(self) -> None:
        """Stops all remaining processes."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(20)

    def environment(self, name: str) -> dict[str, str]:
        """Returns a process's environment: the Compose file's variables and those that all processes need."""
        here = {key: value for key, value in os.environ.items() if not key.startswith("KEYLEDGER_")}
        settings = SERVICES[name].get("environment", {})
        return here | {key: self._placed(name, value) for key, value in settings.items()}

    def _command(self, name: str) -> list[str]:
        service = SERVICES[name]
        if name in OURS:
            return [*_PLAIN, KEYLEDGER, *service["command"]]
        if name == "gateway":
            configuration = self.directory / "nginx.conf"
            configuration.write_text(self._placed(name, NGINX.read_text()))
            return [*self._fitted(name, service["entrypoint"]), "-e", "stderr", "-c", str(configuration)]
        here = ["--bind", "127.0.0.1", "--port", str(self.ports["store"]), "--dir", str(self.directory)]
        return [*self._fitted(name, service["command"]), *here]

    def _fitted(self, name: str, words: list[str]) -> list[str]:
        """Returns a command with this machine's programs and paths."""
        program, *rest = words
        store = ["-p", str(self.ports["store"])] if program == "valkey-cli" else []
        return [self._program(program), *store, *(self._placed(name, word) for word in rest)]

    def _program(self, name: str) -> str:
        own = {"keyledger": KEYLEDGER, "python": sys.executable, "nginx": found("nginx")}
        if name == "valkey-server":
            return EmbeddedServer.in_directory(self.directory / "unused").command[0]
        # The wheel contains only the server, so another client of the same protocol is used.
        called = "redis-cli" if name == "valkey-cli" else name
        return need(own.get(name) or shutil.which(called), called)

    def _placed(self, name: str, text: str) -> str:
        """Replaces the paths and hosts of the Compose file or nginx's configuration with this machine's."""
        port = self.ports.get("local" if name == "gateway" else name)
        places = {
            r"0\.0\.0\.0": "127.0.0.1",
            r"\bstore:6379\b": f"127.0.0.1:{self.ports['store']}",
            r"/run/secrets/": f"{self.directory}/secrets/",
            r"127\.0\.0\.1:8000\b": f"127.0.0.1:{port}",
            r"^8000$": str(port),
            r"^127\.0\.0\.1$": self._database if name == "database" else "127.0.0.1",
            r"(?<= )/tmp/": f"{self.directory}/",
            r"\blisten 8443\b": f"listen 127.0.0.1:{self.ports['gateway']}",
            r"\blisten 8000\b": f"listen 127.0.0.1:{self.ports['local']}",
            **{rf"\b{web}:8000 resolve\b": f"127.0.0.1:{self.ports[web]}" for web in WEBS},
        }
        for written, own in places.items():
            text = re.sub(written, own, text)
        return text


@contextmanager
def deployed(directory: Path) -> Iterator[Deployment]:
    """Runs a complete deployment."""
    with postgresql_cluster() as database:
        with psycopg.connect(f"postgresql://keyledger@/postgres?host={database}", autocommit=True) as server:
            server.execute("CREATE DATABASE keyledger")
        deployment = Deployment(directory, database)
        try:
            for name in SERVICES:
                deployment.up(name)
            for name in SERVICES:
                deployment.wait_for(name)
            yield deployment
        finally:
            deployment.down()
