"""A Keyledger without processes: a store, a database and a data directory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from argon2 import PasswordHasher
from redis import Redis

from services.accounts.components import AccountComponents
from services.accounts.passwords import Passwords
from services.audit.components import AuditComponents
from services.audit.ingest.job import catch_up
from services.audit.integrity.findings import Finding
from services.audit.integrity.verify_log import Trust, check
from services.audit.log.entry import Entry
from services.audit.log.store import StoredCheckpoint
from services.backup.backup import Taken, backup_file
from services.backup.transfer import Progress
from services.keys.components import KeyComponents
from services.keys.model.key import ChangeKey
from shared.eventstore.envelope import Record
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from tests.support.histories import grow
from tests.support.principals import REQUEST, new_key, now, principal

PASSWORD = "a password that is long"
OPERATOR = replace(principal(), kind="operator")  # who needs no account to change others
EVENTS = 1_207  # of `live`: some pages of everything
Making: TypeAlias = Callable[..., Container]


class Seen(NamedTuple):
    """All data that a restore must recover, and the views built from it."""

    log: list[Record]
    indices: dict[bytes, list[bytes]]  # of each subject its positions
    passwords: dict[bytes, object]
    entries: list[Entry]
    checkpoints: list[StoredCheckpoint]
    anchor: bytes | None
    views: set[tuple[bytes, bytes]]
    people: list[str]


class Earlier(NamedTuple):
    """A former Keyledger and its backup."""

    backup: Path
    taken: Taken
    before: Seen
    key_file: Path


def with_fast_passwords(settings: Settings, store_url: str) -> Container:
    """Returns components with fast password hashing."""
    components = Container(SharedComponents(settings, store_url))
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    vars(components.of(AccountComponents))["passwords"] = Passwords(hasher)
    return components


def components_in(
    directory: Path, store_url: str, database: str | None = None, ack_replicas: int = 0
) -> Container:
    """Returns the components of a Keyledger that keeps everything except its store in a directory."""
    settings = replace(
        Settings.from_environment(),
        data_dir=directory,
        redis_url=store_url,
        audit_database_url=database,
        port=0,
        secret_key="s" * 32,
        ack_replicas=ack_replicas,
        verifier_keys=10,
        rate_limit=None,
        sign_in_limit=None,
    )
    return with_fast_passwords(settings, store_url)


def close(components: Container) -> None:
    """Closes the connections. Further use opens new ones."""
    components.of(AuditComponents).log.close()
    components.shared.store.close()


def live(components: Container) -> Container:
    """Creates keys, accounts and checkpoints, and some events after the last checkpoint."""
    commands = components.of(KeyComponents).keys.commands
    made = [commands.create(principal(), new_key(name=f"Key {n}"), REQUEST).key.id for n in range(3)]
    commands.change(principal(), made[0], ChangeKey(enabled=False, reason="leaked"), REQUEST)
    grow(components.shared.ledger, EVENTS - 7, f"key:{made[1]}")
    sign_checkpoint(components)
    for email in ("ann@example.org", "bob@example.org"):
        components.of(AccountComponents).accounts.add(OPERATOR, email, "owner", PASSWORD, REQUEST)
    sign_checkpoint(components)
    commands.change(principal(), made[2], ChangeKey(details={"name": "Renamed"}), REQUEST)
    audit(components)
    components.of(KeyComponents).projector.catch_up()
    components.of(AccountComponents).account_list.catch_up()
    return components


def audit(components: Container) -> None:
    """Copies the ledger to the audit log, as the audit worker does."""
    while catch_up(components.of(AuditComponents).log, components.shared.ledger):
        pass


def sign_checkpoint(components: Container) -> bytes:
    """Updates the audit log, then signs a checkpoint of everything."""
    audit(components)
    note = components.of(AuditComponents).notary.sign_checkpoint()
    assert note
    return note


def findings(components: Container) -> list[Finding]:
    """Returns the findings of the audit log check."""
    trust = Trust(
        components.of(AuditComponents).signer.public_key, components.of(AuditComponents).signer.anchor()
    )
    return check(components.of(AuditComponents).log, components.shared.ledger, trust, silently).findings


def backed_up(components: Container, path: Path, progress: Progress | None = None) -> Taken:
    """Takes a backup."""
    return backup_file(
        components.shared.ledger, components.of(AuditComponents).log, path, now(), progress or silently
    )


def seen(components: Container) -> Seen:
    """Returns all data of a Keyledger."""
    store: Redis = components.shared.store
    return Seen(
        log=[record for page in components.shared.ledger.pages(0, 1_000) for record in page],
        indices=dict(_indices(store)),
        passwords={name: store.get(name) for name in store.scan_iter("{kl:0}:credential:*")},
        entries=list(components.of(AuditComponents).log.walk(2**62)),
        checkpoints=components.of(AuditComponents).log.checkpoints(),
        anchor=components.of(AuditComponents).signer.anchor(),
        views=set(components.of(KeyComponents).views.live().entries()),
        people=[
            row.email for row in components.of(AccountComponents).account_list.page(principal(), 100).rows
        ],
    )


def _indices(store: Redis) -> Iterator[tuple[bytes, list[bytes]]]:
    names = store.scan_iter("{kl:0}:subject:*", count=1_000)
    while some := [*islice(names, 1_000)]:
        with store.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.lrange(name, 0, -1)
            yield from zip(some, pipe.execute(), strict=True)


def silently(_done: int, _all: int) -> None:
    """Discards progress."""


@contextmanager
def quietly(_what: str) -> Iterator[Progress]:
    """Discards the progress of every phase."""
    yield silently
