"""The deployment of docker-compose.yml as plain processes: its commands, settings, health checks and order.

Only addresses, ports and paths are others, for there is one machine and no container.
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
from tests.certificates import write_secrets
from tests.e2e.gateways import found
from tests.real import KEYLEDGER, PostgreSQL, free_port, need, postgresql_cluster, until

COMPOSE: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "keyledger"}
# As `cap_drop` has it, but that root may reach the socket of the database, in a directory of another user.
_PLAIN = ["setpriv", "--bounding-set", "-all,+dac_override"] if os.geteuid() == 0 else []
WEBS = [name for name, service in OURS.items() if "web" in service["command"]]
NGINX = Path(COMPOSE["configs"]["gateway"]["file"])


class Deployment:
    """Every process of it, in a directory of its own. `database` is that of a cluster which runs already."""

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
        """Starts a process, after those that it depends on are healthy. The gateway depends on most."""
        if name in self._running or name == "database":
            return
        needed = SERVICES[name].get("depends_on", {})
        for other in needed:
            self.up(other)
        for other in needed:
            self.wait_for(other)
        self.start(name)

    def start(self, name: str) -> None:
        """Starts a process, whatever it depends on."""
        if name == "database":
            PostgreSQL(self._database).start()
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            command, environment = self._command(name), self.environment(name)
            self._running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def end(self, name: str) -> float:
        """Ends a process as `docker compose stop` does, and gives the seconds that it took."""
        began = time.monotonic()
        if name == "database":
            PostgreSQL(self._database).stop("fast")
        else:
            process = self._running.pop(name)
            process.send_signal(signal.Signals[SERVICES[name].get("stop_signal", "SIGTERM")])
            assert process.wait(30) == 0, self.said(name)
        return time.monotonic() - began

    def reload_gateway(self) -> None:
        """As `nginx -s reload` does."""
        self._running["gateway"].send_signal(signal.SIGHUP)

    def wait_for(self, name: str) -> None:
        """Waits until its health check passes."""
        until(lambda: self.is_healthy(name), 60, f"health of {name}")

    def is_healthy(self, name: str) -> bool:
        """Whether its health check passes; fails at once if it has ended."""
        assert name == "database" or self._running[name].poll() is None, self.said(name)
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = self._fitted(name, words)
        environment = self.environment(name)
        checked = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30)
        return checked.returncode == 0

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """What `docker compose run web-1` does."""
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
        """Lets a client believe the gateway's certificate."""
        client.verify = self.certificate
        client.trust_env = False  # which may name others

    def said(self, name: str) -> str:
        """What a process wrote."""
        return (self.directory / f"{name}.log").read_text()

    def pid(self, name: str) -> int:
        """Its process."""
        return self._running[name].pid

    def down(self) -> None:
        """Ends all that is left."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(20)

    def environment(self, name: str) -> dict[str, str]:
        """What the Compose file sets for a process, beside what any process has here."""
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
        """A command with the programs and places of this machine."""
        program, *rest = words
        store = ["-p", str(self.ports["store"])] if program == "valkey-cli" else []
        return [self._program(program), *store, *(self._placed(name, word) for word in rest)]

    def _program(self, name: str) -> str:
        own = {"keyledger": KEYLEDGER, "python": sys.executable, "nginx": found("nginx")}
        if name == "valkey-server":
            return EmbeddedServer.in_directory(self.directory / "unused").command[0]
        # Of the store's programs, the wheel has the server alone; they speak the same protocol.
        called = "redis-cli" if name == "valkey-cli" else name
        return need(own.get(name) or shutil.which(called), called)

    def _placed(self, name: str, text: str) -> str:
        """With the places of this machine in a text of the Compose file, or of nginx's configuration."""
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
    """A deployment that does its work, while it is used."""
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
