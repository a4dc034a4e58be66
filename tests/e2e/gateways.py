"""Gateways by the recipes, and the service behind them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

from tests.e2e.recipes import blocks, fitted
from tests.real import free_port, need, until

Headers: TypeAlias = list[tuple[str, str]]
Gateway: TypeAlias = Callable[[Path, int, int, int], list[str]]

IDENTITY = ["X-Keyledger-Key-Id", "X-Keyledger-Workspace", "X-Keyledger-Scopes"]

_NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{recipe}
}}
"""

_NO_ROUTES_YET = b"404 page not found\n"  # Traefik listens before it has read them


@dataclass(frozen=True)
class Request:
    """What reached the service."""

    method: str
    path: str
    headers: Headers
    length: int


@dataclass(frozen=True)
class Answer:
    """What came back to the client."""

    status: int
    headers: HTTPMessage
    body: bytes


class EchoService:
    """A small service that keeps what it was asked, and answers as it is told to."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.connections = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None  # unless what it was asked
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(service: EchoService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # seconds that a gateway's idle connection holds its thread at most

        def setup(self) -> None:
            super().setup()
            service.connections += 1

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._echo
            raise AttributeError(name)

        def _echo(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen = Request(self.command, self.path, self.headers.items(), len(body))
            service.seen.append(seen)
            answer = json.dumps(vars(seen)).encode() if service.body is None else service.body
            self.send_response(service.status)
            for name, value in service.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            pass

    return Handler


def nginx(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """The command that runs nginx by its recipe."""
    program = need(found("nginx"), "nginx")
    (block,) = blocks("nginx.md", "nginx")
    places = {"listen 80;": f"listen 127.0.0.1:{port};", **_ports(keyledger, service)}
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, recipe=fitted(block, places)))
    return [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]


def caddy(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """The command that runs Caddy by its recipe."""
    program = need(found("caddy"), "caddy")
    (block,) = blocks("caddy.md", "caddyfile")
    places = {":80 {": f"http://127.0.0.1:{port} {{", **_ports(keyledger, service)}
    configuration = directory / "Caddyfile"
    configuration.write_text("{\n\tadmin off\n}\n" + fitted(block, places))
    return [program, "run", "--adapter", "caddyfile", "--config", str(configuration)]


def traefik(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """The command that runs Traefik by its recipe."""
    program = need(found("traefik"), "traefik")
    static, dynamic = blocks("traefik.md", "yaml")
    routes, configuration = directory / "keyledger.yml", directory / "traefik.yml"
    routes.write_text(fitted(dynamic, _ports(keyledger, service)))
    places = {'":80"': f'"127.0.0.1:{port}"', "/etc/traefik/keyledger.yml": str(routes)}
    configuration.write_text(fitted(static, places))
    return [program, f"--configFile={configuration}"]


def found(program: str) -> str | None:
    """Where a program is, if it is installed: for Python alone, for all, or for root."""
    own = Path(sys.executable).parent
    return shutil.which(program, path=f"{own}:{os.environ['PATH']}:/usr/sbin")


# Debian has no Traefik, so the gate cannot demand it: who has it runs its recipe too.
GATEWAYS = [nginx, caddy, *([traefik] if found("traefik") else [])]


def _ports(keyledger: int, service: int) -> dict[str, str]:
    return {"127.0.0.1:8000": f"127.0.0.1:{keyledger}", "127.0.0.1:9000": f"127.0.0.1:{service}"}


@contextmanager
def running(gateway: Gateway, directory: Path, keyledger: int, service: int) -> Iterator[int]:
    """Runs a gateway in front of a service while it is used, and gives its port."""
    port = free_port()
    command = gateway(directory, port, keyledger, service)
    log = directory / "log"
    home = {"HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=os.environ | home, stdout=output, stderr=output) as process,
    ):

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return ask(port).body != _NO_ROUTES_YET
            except OSError:
                return False

        try:
            until(is_ready, what=f"the first answer of {command[0]}")
            yield port
        finally:
            process.terminate()


def ask(
    port: int, method: str = "GET", path: str = "/", headers: Headers | None = None, body: bytes = b""
) -> Answer:
    """Sends a request with just these headers, as often and in the spelling that they are given."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path)
        for name, value in headers or []:
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
