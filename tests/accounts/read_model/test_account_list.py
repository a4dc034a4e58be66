"""The account list: folding events, catching up, and rebuilding it from scratch."""

from itertools import count
from typing import Any, cast

import fakeredis
import pytest
from argon2 import PasswordHasher
from redis import Redis

from services.accounts.commands import Accounts
from services.accounts.login_throttle import LoginThrottle
from services.accounts.passwords import Passwords
from services.accounts.read_model.account_list import AccountList
from services.accounts.read_model.projection import AccountRow, account_records, fold
from shared.eventstore.codec import encode
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.events import AccountAdded, AccountDisabled, KeyToggled, SignedIn, SignInFailed
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import Payload
from shared.eventstore.subscription import Batch
from shared.identity import ADMIN, ROLES, ForbiddenError, Principal

REQUEST = Request(id="r1", ip="192.0.2.1", user_agent=None)
ACTOR = Actor(kind="operator", id="o", label="o")


def owner(workspace: str = "default", role: str = "owner") -> Principal:
    return Principal(kind="operator", id="o", label="o", workspace=workspace, scopes=ROLES[role])


class World:
    """A ledger with accounts, and the account list, on one store."""

    def __init__(self, store: Redis) -> None:
        ids = map("e{}".format, count(1))
        self.store = store
        self.ledger = Ledger(store)
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.accounts = Accounts(
            self.ledger, Passwords(hasher), LoginThrottle(store, None), lambda: next(ids)
        )
        self.journal = Journal(self.ledger, self.accounts.new_id)
        self.account_list = AccountList(store, self.ledger)

    def add(self, email: str, role: str = "developer", workspace: str = "default") -> None:
        self.accounts.add(owner(workspace), email, role, "a long password", REQUEST)

    def append(self, subject: str, payload: Payload, workspace: str = "default") -> None:
        self.journal.record(payload, subject=subject, workspace=workspace, actor=ACTOR, request=REQUEST)

    def append_unreadable(self, subject: str, workspace: str = "default") -> None:
        """Appends an event of a type that this version doesn't know."""
        version = self.ledger.version(subject)
        (event,) = enveloped(
            [SignedIn()],
            subject=subject,
            after_version=version,
            workspace=workspace,
            actor=ACTOR,
            request=REQUEST,
            new_id=self.accounts.new_id,
        )
        body = encode(event).replace(b"SignedIn", b"Ascended")
        position = self.ledger.head().position + 1
        self.store.xadd("{kl:0}:log", {"at": 5, "event": body}, id=f"0-{position}")
        self.store.rpush(f"{{kl:0}}:subject:{subject}", position)

    def people(self, workspace: str = "default", limit: int = 100, after: str = "") -> list[AccountRow]:
        return self.account_list.page(owner(workspace), limit, after).rows

    def emails(self, workspace: str = "default") -> list[str]:
        return [person.email for person in self.people(workspace)]

    def view(self) -> dict[str, Any]:
        """Everything the list keeps in the store."""
        rows = cast("dict[bytes, bytes]", self.store.hgetall("{kl:0}:view:accounts:1:rows"))
        places = self.store.zrange("{kl:0}:view:accounts:1:places", 0, -1)
        return {"rows": rows, "places": places, "at": self.store.get("{kl:0}:view:accounts:1:checkpoint")}


@pytest.fixture
def world(any_store: Redis) -> World:
    return World(any_store)


def test_accounts_are_listed_by_email_with_status_and_last_sign_in(world: World) -> None:
    assert world.people() == []
    world.add("bob@example.com", "auditor")
    world.add("ada@example.com", "owner")
    world.append("key:1", KeyToggled(enabled=True, reason=""))
    world.append("sign-in:ada@example.com", SignInFailed(attempts=3))
    assert [person.signed_in_at for person in world.people()] == [None, None]
    world.append("sign-in:ada@example.com", SignedIn())
    world.accounts.disable(owner(), "bob@example.com", "left", REQUEST)
    ada, bob = world.people()
    assert [(row.email, row.status) for row in (ada, bob)] == [
        ("ada@example.com", "active"),
        ("bob@example.com", "disabled"),
    ]
    signed_in = world.ledger.history("sign-in:ada@example.com")[-1]
    assert (ada.signed_in_at, bob.signed_in_at) == (signed_in.at, None)
    assert ada.added_at == world.ledger.history("account:ada@example.com")[0].at
    assert ada.account == world.accounts.load("ada@example.com")
    assert bob.account == world.accounts.load("bob@example.com")


def test_each_workspace_has_its_own_list(world: World) -> None:
    for workspace in ("a", "a-b", "a.b", "ab"):
        world.add(f"one@{workspace}", workspace=workspace)
        world.add(f"two@{workspace}", workspace=workspace)
    for workspace in ("a", "a-b", "a.b", "ab"):
        assert world.emails(workspace) == [f"one@{workspace}", f"two@{workspace}"]
    assert world.emails("other") == []


def test_the_list_is_paginated(world: World) -> None:
    for number in range(5):
        world.add(f"p{number}@x")
    seen, cursor = list[str](), ""
    for size in (2, 2, 1):
        page = world.account_list.page(owner(), 2, cursor)
        assert len(page.rows) == size
        seen += [person.email for person in page.rows]
        cursor = page.next_cursor or ""
    assert (seen, cursor) == ([f"p{number}@x" for number in range(5)], "")


def test_only_owners_can_read_the_list(world: World) -> None:
    for role in ("developer", "auditor"):
        with pytest.raises(ForbiddenError):
            world.account_list.page(owner(role=role), 10)
    assert ADMIN in owner().scopes


def test_a_deleted_list_is_rebuilt_identically(world: World) -> None:
    world.add("ada@example.com")
    assert world.emails() == ["ada@example.com"]
    world.accounts.change_role(owner(), "ada@example.com", "auditor", REQUEST)
    world.append("sign-in:ada@example.com", SignedIn())
    world.people()
    before = world.view()
    world.store.delete(*world.store.scan_iter("{kl:0}:view:*"))
    world.people()
    assert world.view() == before


def test_restoring_an_older_ledger_rebuilds_the_list(world: World) -> None:
    world.add("ada@example.com")
    kept = cast("bytes", world.store.dump("{kl:0}:log"))
    world.add("gone@example.com")
    assert world.emails() == ["ada@example.com", "gone@example.com"]
    world.store.restore("{kl:0}:log", 0, kept, replace=True)
    world.store.delete("{kl:0}:subject:account:gone@example.com")
    assert world.emails() == ["ada@example.com"]
    world.store.delete("{kl:0}:log")
    assert world.emails() == []


def test_concurrent_catch_ups_apply_each_event_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("ada@example.com")
    update, first = AccountList._update, iter([True])

    def outrun(self: AccountList, batch: Batch) -> bool:
        if next(first, False):
            world.accounts.disable(owner(), "ada@example.com", "", REQUEST)
            AccountList(world.store, world.ledger).catch_up()
        return update(self, batch)

    monkeypatch.setattr(AccountList, "_update", outrun)
    world.account_list = AccountList(world.store, world.ledger)
    (ada,) = world.people()
    assert ada.account == world.accounts.load("ada@example.com")


def test_accounts_with_unreadable_events_are_marked_and_others_are_unaffected(world: World) -> None:
    world.add("ada@example.com")
    world.add("bob@example.com")
    world.append_unreadable("account:bob@example.com")
    world.append_unreadable("account:new@example.com")
    world.append("account:new@example.com", AccountDisabled(reason=""))
    world.append_unreadable("sign-in:ada@example.com")
    found = {person.email: person.status for person in world.people()}
    assert found == {
        "ada@example.com": "active",
        "bob@example.com": "unreadable",
        "new@example.com": "unreadable",
    }


def test_an_account_stays_unreadable_after_an_invalid_event(world: World) -> None:
    world.add("bob@example.com")
    world.append("account:bob@example.com", AccountAdded(role="owner"))
    world.append("account:bob@example.com", AccountDisabled(reason=""))
    world.people()
    (bob,) = world.people()
    assert (bob.status, bob.account) == ("unreadable", None)


def test_only_events_about_accounts_are_decoded() -> None:
    store = fakeredis.FakeRedis()
    world = World(store)
    world.add("ada@example.com")
    actor = Actor(kind="account", id="account:ada@example.com", label="x")
    (by_ada,) = enveloped(
        [KeyToggled(enabled=True, reason='"subject":"account:x')],
        subject="key:1",
        after_version=0,
        workspace="default",
        actor=actor,
        request=REQUEST,
        new_id=lambda: "k1",
    )
    broken = Record(3, 0, b'"subject":"account:x" {')
    records = [*world.ledger.read(0, 10), Record(2, 0, encode(by_ada)), broken]
    found = [*account_records(records)]
    assert found == [("ada@example.com", records[0])]
    row = fold("ada@example.com", None, records[:1])
    assert row
    assert row.status == "active"
