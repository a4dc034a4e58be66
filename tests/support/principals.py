"""The principal and the request that tests of keys use."""

import time

from shared.eventstore.envelope import Request
from shared.eventstore.events import KeyDetails
from shared.identity import ADMIN, Principal

REQUEST = Request(id="r1", ip="127.0.0.1", user_agent=None)


def principal(workspace: str = "default", *scopes: str) -> Principal:
    """A principal of a workspace with the given scopes; an owner if none are given."""
    return Principal(
        kind="account",
        id="account:a@b",
        label="a@b",
        workspace=workspace,
        scopes=frozenset(scopes or {ADMIN}),
    )


def new_key(
    name: str, description: str = "", scopes: tuple[str, ...] = (), expires_at: int | None = None
) -> KeyDetails:
    """The details of a key to create."""
    return KeyDetails(name=name, description=description, scopes=scopes, expires_at=expires_at)


def now() -> int:
    """The current time in ms since 1970."""
    return time.time_ns() // 1_000_000
