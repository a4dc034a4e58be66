"""An unavailable store is reported immediately and waited for, and no process dies."""

import os
import signal

import requests

from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.processes import until
from tests.support.service import Service
from tests.support.web_client import Visitor

PROGRAMS = ("projector", "relay", "worker", "web")


def test_an_unavailable_store_is_reported_and_waited_for(service: Service) -> None:
    bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
    pids = {name: service.pid(name) for name in PROGRAMS}
    store = service.pid("valkey-server")
    url = f"{service.url}/v1/keys"
    assert requests.post(url, json={"name": "before"}, headers=bearer, timeout=60).status_code == 201

    os.kill(store, signal.SIGSTOP)
    try:
        for _ in range(2):
            # The store is stopped throughout, so no response can have waited for it.
            answer = requests.post(url, json={"name": "during"}, headers=bearer, timeout=60)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "Idempotency-Key" in answer.json()["detail"]
        visitor = requests.Session()
        assert visitor.get(f"{service.url}/sign-in", timeout=60).status_code == 200
        (cookie,) = visitor.cookies.keys()
        page = requests.get(f"{service.url}/keys", cookies={cookie: "a" * 43}, timeout=60)
        assert page.status_code == 503
        assert "try again" in page.text.lower()
        assert requests.get(f"{service.url}/healthz", timeout=60).status_code == 200
        not_ready = requests.get(f"{service.url}/readyz", timeout=60)
        assert (not_ready.status_code, "store" in not_ready.json()["wrong"]) == (503, True)
    finally:
        os.kill(store, signal.SIGCONT)
    until(service.is_ready, what="readiness")
    made = requests.post(url, json={"name": "after"}, headers=bearer, timeout=60)
    assert made.status_code == 201
    position = {"X-Ledger-Position": made.headers["X-Ledger-Position"]}
    listed = requests.get(url, headers=bearer | position, timeout=60)
    assert "X-Ledger-Behind" not in listed.headers
    assert listed.json()["keys"][0]["name"] == "after"
    assert {name: service.pid(name) for name in PROGRAMS} == pids


def test_sign_in_and_revoking_access_work_while_the_store_is_out_of_memory(service: Service) -> None:
    password = "a long password"
    owner = service.account("full@example.com", "owner", password)
    leaver = service.account("leaver@example.com", "developer", password)
    bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
    keys = f"{service.url}/v1/keys"
    asked = [requests.post(keys, json={"name": "k"}, headers=bearer, timeout=60) for _ in range(4)]
    made = [answer.json() for answer in asked]
    signed_in, newcomer = Visitor(service.url), Visitor(service.url)
    assert signed_in.sign_in(owner, password).status_code == 303

    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        store.config_set("maxmemory", 1)
        try:
            refused = requests.post(keys, json={"name": "k"}, headers=bearer, timeout=60)
            assert (refused.status_code, "out of memory" in refused.text) == (503, True)
            first, second, third, fourth = (key["id"] for key in made)
            assert requests.delete(f"{keys}/{first}", headers=bearer, timeout=60).status_code == 200
            off = {"enabled": False}
            assert requests.patch(f"{keys}/{second}", json=off, headers=bearer, timeout=60).status_code == 200
            revoked = signed_in.submit(f"/keys/{third}/revoke", f"/keys/{third}/revoke")
            assert revoked.status_code == 303
            assert newcomer.sign_in(owner, password).status_code == 303
            revoked = newcomer.submit(f"/keys/{fourth}/revoke", f"/keys/{fourth}/revoke")
            assert revoked.status_code == 303
            here = f"/accounts/person?email={leaver}"
            fields = {"email": leaver, "role": "auditor", "reason": "left"}
            assert newcomer.submit("/accounts/role", here, **fields).status_code == 303
            assert newcomer.submit("/accounts/disable", here, **fields).status_code == 303
            assert signed_in.submit("/sign-out", "/account").status_code == 303
            assert newcomer.submit("/account/sign-out-everywhere", "/account").status_code == 303
            for key, code in zip(made, ("REVOKED", "DISABLED", "REVOKED", "REVOKED"), strict=True):
                verdict = requests.post(
                    f"{keys}/verify", json={"api_key": key["api_key"]}, headers=bearer, timeout=5
                )
                assert verdict.json()["code"] == code
        finally:
            store.config_set("maxmemory", 0)
    until(service.is_ready, what="readiness")
