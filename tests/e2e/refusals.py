"""Refused keys, one for each reason."""

import secrets
from datetime import UTC, datetime, timedelta

from services.keys.model.token import mint, mint_again
from tests.e2e.test_api import Caller, Json, create
from tests.support.processes import until

REFUSED = {  # and with what status
    "none": 401,
    "malformed": 401,
    "mistyped": 401,
    "unknown": 401,
    "another's secret": 401,
    "disabled": 401,
    "expired": 401,
    "revoked": 401,
    "scopeless": 403,
    "of other scopes": 403,
}


def refused_tokens(admin: Caller, good: Json) -> dict[str, str]:
    """Returns a token for each reason to refuse one when the scope orders:read is required."""
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    made = {
        name: create(admin, name=name, scopes=["orders:read"], expires_at=expiry)
        for name, expiry in {"disabled": None, "revoked": None, "expired": soon}.items()
    }
    assert admin("PATCH", f"/v1/keys/{made['disabled']['id']}", json={"enabled": False}).ok
    assert admin("DELETE", f"/v1/keys/{made['revoked']['id']}").ok
    until(lambda: admin("GET", f"/v1/keys/{made['expired']['id']}").json().get("status") == "expired")
    token: str = good["api_key"]
    return {name: key["api_key"] for name, key in made.items()} | {
        "none": "",
        "malformed": "x",
        "mistyped": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "unknown": mint("kl", "default", secrets.randbelow).reveal(),
        "another's secret": mint_again("kl", good["id"], secrets.randbelow).reveal(),
        "scopeless": create(admin, name="scopeless")["api_key"],
        "of other scopes": create(admin, name="other", scopes=["orders:write", "orders"])["api_key"],
    }
