"""A store that is away: told at once, waited for, and nobody dies of it."""

import os
import signal
import time

import requests

from tests.real import Service, until

PROGRAMS = ("projector", "relay", "worker", "web")


def test_a_store_that_is_away_is_answered_in_2_s_and_waited_for(service: Service) -> None:
    bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
    pids = {name: service.pid(name) for name in PROGRAMS}
    store = service.pid("valkey-server")
    url = f"{service.url}/v1/keys"
    assert requests.post(url, json={"name": "before"}, headers=bearer, timeout=5).status_code == 201

    os.kill(store, signal.SIGSTOP)
    try:
        for _ in range(2):
            start = time.monotonic()
            answer = requests.post(url, json={"name": "during"}, headers=bearer, timeout=5)
            assert time.monotonic() - start < 2
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "Idempotency-Key" in answer.json()["detail"]
        visitor = requests.Session()
        assert visitor.get(f"{service.url}/sign-in", timeout=5).status_code == 200
        (cookie,) = visitor.cookies.keys()
        start = time.monotonic()
        page = requests.get(f"{service.url}/keys", cookies={cookie: "a" * 43}, timeout=5)
        assert time.monotonic() - start < 2
        assert page.status_code == 503
        assert "try again" in page.text.lower()
        assert requests.get(f"{service.url}/healthz", timeout=5).status_code == 200
        not_ready = requests.get(f"{service.url}/readyz", timeout=10)
        assert (not_ready.status_code, "store" in not_ready.json()["wrong"]) == (503, True)
    finally:
        os.kill(store, signal.SIGCONT)
    until(service.is_ready, 10, "readiness")
    made = requests.post(url, json={"name": "after"}, headers=bearer, timeout=5)
    assert made.status_code == 201
    position = {"X-Ledger-Position": made.headers["X-Ledger-Position"]}
    listed = requests.get(url, headers=bearer | position, timeout=5)
    assert "X-Ledger-Behind" not in listed.headers
    assert listed.json()["keys"][0]["name"] == "after"
    assert {name: service.pid(name) for name in PROGRAMS} == pids
