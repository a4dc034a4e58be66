"""docker-compose.yml, tested without Docker: its exact commands run as plain processes."""

import json
import re
import socket
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.web.server.context import security_headers
from tests.support.deployment import COMPOSE, OURS, SERVICES, WEBS, Deployment, deployed
from tests.support.processes import until
from tests.support.web_client import Visitor

PASSWORD = "a long password"


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="kl-") as directory, deployed(Path(directory)) as running:
        added = running.run(
            "account", "add", "you@example.org", "--role", "owner", "--password-stdin", stdin=f"{PASSWORD}\n"
        )
        assert added.returncode == 0, added.stderr
        yield running


@pytest.fixture(scope="module")
def outside(deployment: Deployment) -> Iterator[requests.Session]:
    """An external client, with a key that has the admin scope."""
    made = deployment.run("key", "create", "ci", "--scope", "keyledger:admin")
    with requests.Session() as session:
        deployment.trust(session)
        session.headers["Authorization"] = f"Bearer {made.stdout.strip()}"
        yield session


@pytest.fixture(scope="module")
def created(deployment: Deployment, outside: requests.Session) -> dict[str, Any]:
    answer = outside.post(f"{deployment.url}/v1/keys", json={"name": "Web"}, timeout=60)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_keys_verification_audit_and_operations_work_in_the_deployment(
    deployment: Deployment, outside: requests.Session, created: dict[str, Any]
) -> None:
    listed = outside.get(f"{deployment.url}/v1/keys?after=3", timeout=60).json()["keys"]
    assert "Web" in [key["name"] for key in listed]
    asked = {"api_key": created["api_key"]}
    assert outside.post(f"{deployment.url}/v1/keys/verify", json=asked, timeout=60).json()["code"] == "VALID"
    entries = f"{deployment.url}/v1/audit/entries?key_id={created['id']}"
    until(lambda: outside.get(entries, timeout=60).json()["entries"], what="the audit entry")
    for command in (("audit", "check"), ("replay", "--check"), ("projector", "status"), ("audit", "status")):
        ended = deployment.run(*command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert deployment.run("audit", "checkpoint").stdout.startswith("keyledger audit checkpoint v1\n")


def test_users_sign_in_over_tls_and_audit_pages_have_their_own_process(
    deployment: Deployment,
) -> None:
    visitor = Visitor(deployment.url)
    deployment.trust(visitor)
    visitor.sign_in("you@example.org", PASSWORD)
    assert [cookie.secure for cookie in visitor.cookies] == [True]
    answer = visitor.get(f"{deployment.url}/audit", timeout=60)
    assert (answer.status_code, answer.headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
    assert _sent_to(deployment, answer) == "audit-web"
    answer = visitor.get(f"{deployment.url}/keys", timeout=60)
    assert _sent_to(deployment, answer) in {"web-1", "web-2"}


def test_client_supplied_request_ids_and_forwarding_headers_are_replaced(
    deployment: Deployment, outside: requests.Session
) -> None:
    said = {"X-Request-Id": "mine", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}
    made = outside.post(f"{deployment.url}/v1/keys", json={"name": "Said"}, headers=said, timeout=60)
    assert re.fullmatch("[0-9a-f]{32}", made.headers["X-Request-Id"])
    history = outside.get(f"{deployment.url}/v1/keys/{made.json()['id']}/history", timeout=60).json()
    request = history["events"][0]["request"]
    assert (request["id"], request["ip"]) == (made.headers["X-Request-Id"], "127.0.0.1")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/metrics",
            "/readyz",
            "/statusz",
            "/v1/forward-auth",
            "/v1/forward-auth?scopes=",
            "//metrics",
            "/x/../readyz",
        ),
        *("/%6detrics", "/v1/%2e/forward-auth", "/x/..%2Fmetrics", "/v1//forward-auth", "/./readyz"),
        *("/done-once/v1/keys", "/done-once/metrics"),
    ],
)
def test_operator_and_gateway_endpoints_are_not_reachable_from_outside(
    deployment: Deployment, outside: requests.Session, path: str
) -> None:
    request = outside.prepare_request(requests.Request("GET", deployment.url))
    request.url = f"{deployment.url}{path}"
    for headers in ({}, {"Idempotency-Key": "k"}):
        request.headers.update(headers)
        assert outside.send(request, verify=deployment.certificate, timeout=60).status_code == 404


@pytest.mark.parametrize(
    "path", ["/metrics/", "/%256detrics", "/readyz;x", "/metrics/../v1/keys", "/v1/forward-auth/"]
)
def test_no_other_spelling_reaches_the_internal_endpoints(
    deployment: Deployment, outside: requests.Session, path: str
) -> None:
    request = outside.prepare_request(requests.Request("GET", deployment.url))
    request.url = f"{deployment.url}{path}"
    assert outside.send(request, verify=deployment.certificate, timeout=60).status_code == 404


def test_the_local_port_serves_only_forward_auth_and_health(
    deployment: Deployment, created: dict[str, Any]
) -> None:
    bearer = {"Authorization": f"Bearer {created['api_key']}"}
    asked = f"{deployment.local_url}/v1/forward-auth"
    assert requests.get(asked, headers=bearer, timeout=60).headers["X-Keyledger-Key-Id"] == created["id"]
    assert requests.get(asked, timeout=60).status_code == 401
    assert requests.get(f"{deployment.local_url}/readyz", timeout=60).json()["status"] == "ready"
    assert "audit log" in requests.get(f"{deployment.local_url}/statusz", timeout=60).json()["checks"]
    for path in ("/", "/keys", "/v1/keys", "/metrics", "/sign-in"):
        assert requests.get(f"{deployment.local_url}{path}", timeout=60).status_code == 404


def test_refusals_by_nginx_use_problem_json(deployment: Deployment, outside: requests.Session) -> None:
    answer = outside.post(f"{deployment.url}/v1/keys", json={"name": "x" * 70_000}, timeout=60)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert answer.json()["status"] == 413
    assert re.fullmatch("[0-9a-f]{32}", answer.json()["request_id"])


def test_responses_by_nginx_have_the_same_security_headers(
    deployment: Deployment, outside: requests.Session
) -> None:
    url, too_large = deployment.url, {"name": "x" * 70_000}
    answers = [
        outside.get(f"{url}/healthz", timeout=60),
        outside.get(f"{url}/sign-in", timeout=60),
        outside.get(f"{url}/metrics", timeout=60),
        outside.post(f"{url}/v1/keys", json=too_large, timeout=60),
        outside.request("TRACE", f"{url}/keys", timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 413, 405]
    over_tls = dict(security_headers({"wsgi.url_scheme": "https"}))
    for answer in answers:
        assert {name: answer.headers.get(name) for name in over_tls} == over_tls
    plain = dict(security_headers({"wsgi.url_scheme": "http"}))
    for path in ("/nowhere", "/healthz"):
        answer = requests.get(f"{deployment.local_url}{path}", timeout=60)
        assert {name: answer.headers.get(name) for name in plain} == plain
        assert "Strict-Transport-Security" not in answer.headers


def test_connections_per_client_ip_are_limited(deployment: Deployment) -> None:
    half = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    probe = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    with ExitStack() as held:

        def sent(request: bytes, address: str = "127.0.0.1") -> ssl.SSLSocket:
            place = ("127.0.0.1", deployment.ports["gateway"])
            peer = socket.create_connection(place, 60, (address, 0))
            context = ssl.create_default_context(cafile=deployment.certificate)
            secured = held.enter_context(context.wrap_socket(peer, server_hostname="127.0.0.1"))
            secured.sendall(request)
            return secured

        def refused() -> bool:
            for _ in range(40):
                sent(half)
            return sent(probe).recv(12) == b"HTTP/1.1 429"

        until(refused, what="a refusal")
        assert sent(probe, "127.0.0.2").recv(12) == b"HTTP/1.1 200"


def test_only_tls_1_2_and_1_3_are_accepted(deployment: Deployment) -> None:
    spoken = {
        version: _speaks(deployment, version) for version in ssl.TLSVersion if version.name[:3] == "TLS"
    }
    assert {version.name for version, cipher in spoken.items() if cipher} == {"TLSv1_2", "TLSv1_3"}
    assert spoken[ssl.TLSVersion.TLSv1_2].startswith("ECDHE-")


def _speaks(deployment: Deployment, version: ssl.TLSVersion) -> str:
    """The negotiated cipher, or an empty string."""
    context = ssl.create_default_context(cafile=deployment.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what old versions are asked for with
        context.minimum_version = context.maximum_version = version
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", deployment.ports["gateway"]), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
    ):
        agreed = peer.cipher()
        return agreed[0] if agreed else ""
    return ""


def _sent_to(deployment: Deployment, answer: requests.Response) -> str:
    """The process that answered, according to nginx's log."""

    def line() -> str | None:
        lines = deployment.said("gateway").splitlines()
        return next((each for each in lines if answer.headers["X-Request-Id"] in each), None)

    until(line, what="the line of the log")
    port = json.loads(line() or "")["sent_to"].rpartition(":")[2]
    return {str(port): name for name, port in deployment.ports.items()}[port]


def test_the_store_persists_every_acknowledged_write() -> None:
    words = SERVICES["store"]["command"][1:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--no-appendfsync-on-rewrite"] == "no"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "1gb"
    assert _limits("store")["memory"] == "2304M"  # for twice that, and what it has besides
    assert "store:/data" in SERVICES["store"]["volumes"]


def test_each_process_is_a_separate_service() -> None:
    assert {name: service["command"] for name, service in OURS.items()} == {
        "web-1": ["web"],
        "web-2": ["web"],
        "audit-web": ["audit", "web"],
        "projector": ["projector"],
        "audit-relay": ["audit", "relay"],
        "audit-worker": ["audit", "worker"],
    }
    assert {*SERVICES} == {*OURS, "gateway", "store", "database"}


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_with_minimal_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in {"", "0", "root"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {*_limits(name)} == {"cpus", "memory", "pids"}
    assert "ports" not in service or name == "gateway"


@pytest.mark.parametrize("name", SERVICES)
def test_services_restart_have_health_checks_and_bounded_logs(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {*service["logging"]["options"]} == {"max-size", "max-file"}
    needed = {"gateway": {*WEBS}, "projector": {"store"}, "store": set(), "database": set()}
    wanted = needed.get(name, {"store", "database"})
    assert service.get("depends_on", {}) == {each: {"condition": "service_healthy"} for each in wanted}


def test_secrets_are_files_mounted_only_where_needed() -> None:
    assert {name: secret["file"] for name, secret in COMPOSE["secrets"].items()} == {
        name: f"./secrets/{name}" for name in COMPOSE["secrets"]
    }
    audit = {"secret_key", "audit_database_url", "audit_key"}
    needed = {
        "gateway": {"tls_certificate", "tls_key"},
        "projector": {"secret_key"},
        "store": set(),
        "database": {"postgres_password"},
    }
    for name, service in SERVICES.items():
        assert {*service.get("secrets", [])} == needed.get(name, audit), name
        for key in service.get("environment", {}):
            assert key.endswith("_FILE") or not re.search("SECRET|PASSWORD|DATABASE_URL|_KEY", key), key


def test_only_the_gateway_is_public_and_networks_are_minimal() -> None:
    assert {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")} == {
        "outside"
    }
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]}
        for network in COMPOSE["networks"]
    }
    assert members == {
        "outside": {"gateway"},
        "front": {"gateway", *WEBS},
        "store": {"store", *OURS},
        "database": {"database", *OURS} - {"projector"},
    }


def _limits(name: str) -> dict[str, Any]:
    limits: dict[str, Any] = SERVICES[name]["deploy"]["resources"]["limits"]
    return limits
