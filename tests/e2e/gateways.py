"""Gateways configured by the recipes, and the service behind them."""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

from tests.e2e.recipes import RECIPES, blocks, fitted
from tests.support.processes import free_port, need, until

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

_NO_ROUTES_YET = b"404 page not found\n"  # Traefik listens before it has read its routes


_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # from RFC 6455


@dataclass(frozen=True)
class Request:
    """A request that reached the service."""

    method: str
    path: str
    headers: Headers
    length: int


@dataclass(frozen=True)
class Answer:
    """A response to the client."""

    status: int
    headers: HTTPMessage
    body: bytes


class EchoService:
    """A small service that records requests and returns configured responses."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.connections = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None  # by default, it echoes the request
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Stops the service."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(service: EchoService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # seconds after which an idle connection of a gateway frees its thread

        def setup(self) -> None:
            super().setup()
            service.connections += 1

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._echo
            raise AttributeError(name)

        def _echo(self) -> None:
            if self.headers.get("Upgrade"):
                _echo_frames(self, service)
            else:
                _echo_body(self, service)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # named by the base class
            pass

    return Handler


def _echo_body(handler: BaseHTTPRequestHandler, service: EchoService) -> None:
    body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    seen = Request(handler.command, handler.path, handler.headers.items(), len(body))
    service.seen.append(seen)
    answer = json.dumps(vars(seen)).encode() if service.body is None else service.body
    handler.send_response(service.status)
    for name, value in service.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(answer)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(answer)


def _echo_frames(handler: BaseHTTPRequestHandler, service: EchoService) -> None:
    """Echoes small WebSocket frames until the client closes the connection."""
    service.seen.append(Request(handler.command, handler.path, handler.headers.items(), 0))
    key = handler.headers["Sec-WebSocket-Key"].encode() + _WEBSOCKET
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    accept = hashlib.sha1(key, usedforsecurity=False).digest()
    handler.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
    handler.end_headers()
    while head := handler.rfile.read(2):
        mask = handler.rfile.read(4)
        masked = handler.rfile.read(head[1] & 0x7F)
        text = bytes(each ^ mask[place % 4] for place, each in enumerate(masked))
        handler.wfile.write(bytes([head[0], len(text)]) + text)
    handler.close_connection = True


def nginx(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """Returns the command that runs nginx with its recipe."""
    block = blocks("nginx.md", "nginx")[0]
    return _nginx(directory, block, port, keyledger, service)


def nginx_with_other_places(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """Returns the nginx command with the recipe table's changes, which read keys from other places."""
    block, maps = blocks("nginx.md", "nginx")
    rows = re.findall(r"(?m)^\| `[^`]+` \| `([^`]+)` \| `([^`]+)` \|$", (RECIPES / "nginx.md").read_text())
    assert len(rows) == 4
    changed = fitted(block, {old: new.replace("/var/log/nginx", str(directory)) for old, new in rows})
    return _nginx(
        directory,
        changed.replace("server {\n    listen", f"{maps}\nserver {{\n    listen"),
        port,
        keyledger,
        service,
    )


def _nginx(directory: Path, block: str, port: int, keyledger: int, service: int) -> list[str]:
    program = need(found("nginx"), "nginx")
    places = {"listen 80;": f"listen 127.0.0.1:{port};", **_ports(keyledger, service)}
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, recipe=fitted(block, places)))
    return [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]


def caddy(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """Returns the command that runs Caddy with its recipe."""
    program = need(found("caddy"), "caddy")
    block = blocks("caddy.md", "caddyfile")[0]
    return _caddy(directory, program, block, port, keyledger, service)


def caddy_with_x_api_key(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """Returns the command that runs Caddy with keys from X-API-Key."""
    program = need(found("caddy"), "caddy")
    block, lines = blocks("caddy.md", "caddyfile")
    block = fitted(block, {"\troute {\n": f"\troute {{\n{lines}"})
    return _caddy(directory, program, block, port, keyledger, service)


def _caddy(directory: Path, program: str, block: str, port: int, keyledger: int, service: int) -> list[str]:
    places = {":80 {": f"http://127.0.0.1:{port} {{", **_ports(keyledger, service)}
    configuration = directory / "Caddyfile"
    configuration.write_text("{\n\tadmin off\n}\n" + fitted(block, places))
    return [program, "run", "--adapter", "caddyfile", "--config", str(configuration)]


def traefik(directory: Path, port: int, keyledger: int, service: int) -> list[str]:
    """Returns the command that runs Traefik with its recipe."""
    program = need(found("traefik"), "traefik")
    static, dynamic = blocks("traefik.md", "yaml")
    routes, configuration = directory / "keyledger.yml", directory / "traefik.yml"
    routes.write_text(fitted(dynamic, _ports(keyledger, service)))
    places = {'":80"': f'"127.0.0.1:{port}"', "/etc/traefik/keyledger.yml": str(routes)}
    configuration.write_text(fitted(static, places))
    return [program, f"--configFile={configuration}"]


def found(program: str) -> str | None:
    """Returns a program's path, searching the virtual environment, the PATH and /usr/sbin."""
    own = Path(sys.executable).parent
    return shutil.which(program, path=f"{own}:{os.environ['PATH']}:/usr/sbin")


# Debian has no Traefik package, so CI can't require it. Its recipe is tested if it's installed.
GATEWAYS = [nginx, caddy, *([traefik] if found("traefik") else [])]


def _ports(keyledger: int, service: int) -> dict[str, str]:
    return {"127.0.0.1:8000": f"127.0.0.1:{keyledger}", "127.0.0.1:9000": f"127.0.0.1:{service}"}


@contextmanager
def running(gateway: Gateway, directory: Path, keyledger: int, service: int) -> Iterator[int]:
    """Runs a gateway in front of a service, and yields its port."""
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


def open_websocket(port: int, headers: Headers, words: Sequence[bytes] = ()) -> tuple[int, list[bytes]]:
    """Returns the status of a WebSocket's handshake and, if it opens, the reply to each word."""
    sent = [("Host", f"127.0.0.1:{port}"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), *headers]
    sent += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode())]
    lines = ["GET /events HTTP/1.1", *(f"{name}: {value}" for name, value in sent), "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer, peer.makefile("rb") as answer:
        peer.sendall("\r\n".join(lines).encode())
        status = int(answer.readline().split()[1])
        while answer.readline().strip():
            pass
        back = []
        for word in words if status == 101 else ():
            peer.sendall(
                bytes([0x81, 0x80 | len(word), 0, 0, 0, 0]) + word
            )  # an all-zero mask leaves the data unchanged
            head = answer.read(2)
            back.append(answer.read(head[1]))
        return status, back


def ask(
    port: int, method: str = "GET", path: str = "/", headers: Headers | None = None, body: bytes = b""
) -> Answer:
    """Sends a request with exactly these headers, repeated and spelled as given."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
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
