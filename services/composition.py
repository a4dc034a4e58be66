"""Builds each process from its parts. Only this module and the command line know all the services."""

import os
import secrets
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from redis import Redis

from services.accounts.attempts import Attempts
from services.accounts.commands import Accounts
from services.accounts.credentials import Passwords
from services.accounts.directory import Directory
from services.accounts.incidents import Incidents
from services.accounts.sign_in import SignIn
from services.audit.audit_log import AuditLog
from services.audit.exporting import Exports
from services.audit.failures import Failures
from services.audit.jobs import Requests
from services.audit.relay import Relay
from services.audit.signing import Signer
from services.audit.standing import Standing
from services.audit.vouching import Notary
from services.keys.commands import KeyCommands
from services.keys.currency import Tail
from services.keys.inquiries import LedgerInquiries
from services.keys.projector import Projector
from services.keys.service import Keys
from services.keys.standings import Memory
from services.keys.usage import Usage
from services.keys.verification import KeyAuthenticator, Verifier
from services.keys.verify_calls import VerdictCalls
from services.keys.views import Views
from shared.connections import connect
from shared.embedded import make_data_directory
from shared.journal import Journal
from shared.ledger import Ledger
from shared.settings import Settings
from shared.web.limits import Limits

_BLOCKING_READ_S = 5.0
_TAIL_READ_S = (
    1.0  # longer than the tail waits for news, and short enough to notice a connection that is dead
)


def now_ms() -> int:
    """The present time in ms since 1970."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A name for an event or a request."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Parts:
    """What the processes are made of, on one store. Nothing connects before it is used."""

    settings: Settings
    store_url: str

    @cached_property
    def store(self) -> Redis:
        """A client whose answers come soon enough for a request to be refused within 2 s, or not at all."""
        return connect(self.store_url, allow_unsafe=self.settings.allow_unsafe_store)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, to append and to read."""
        return Ledger(self.store, self.settings.ack_replicas)

    @cached_property
    def waiting_store(self) -> Redis:
        """A client for reads that wait for what comes."""
        unsafe = self.settings.allow_unsafe_store
        return connect(self.store_url, allow_unsafe=unsafe, timeout=_BLOCKING_READ_S)

    @cached_property
    def tailed_ledger(self) -> Ledger:
        """The ledger, to be tailed."""
        return Ledger(self.waiting_store)

    @cached_property
    def views(self) -> Views:
        """The read models of keys."""
        return Views(self.store)

    @cached_property
    def keys(self) -> Keys:
        """Commands on keys, and their views."""
        commands = KeyCommands(self.ledger, self.settings.key_prefix, secrets.randbelow, new_id, now_ms)
        return Keys(commands, self.views)

    @cached_property
    def memory(self) -> Memory:
        """What this process remembers of the keys that it was asked about."""
        return Memory(self.settings.verifier_keys)

    @cached_property
    def tail(self) -> Tail:
        """What keeps that current."""
        unsafe = self.settings.allow_unsafe_store
        store = connect(self.store_url, allow_unsafe=unsafe, timeout=_TAIL_READ_S)
        return Tail(Ledger(store), self.memory)

    @cached_property
    def usage(self) -> Usage:
        """How often and when keys were used."""
        return Usage(self.store)

    @cached_property
    def verifier(self) -> Verifier:
        """What gives the verdict on a key."""
        return Verifier(self.ledger, self.memory, self.tail, now_ms, self.usage.note)

    @cached_property
    def authenticator(self) -> KeyAuthenticator:
        """What tells who presents a key."""
        return KeyAuthenticator(self.verifier)

    @cached_property
    def verdicts(self) -> VerdictCalls:
        """The calls that other services make on every request."""
        return VerdictCalls(self.verifier, self.authenticator)

    @cached_property
    def limits(self) -> Limits:
        """How often each caller of this process may call."""
        return Limits(self.settings.rate_limit)

    @cached_property
    def passwords(self) -> Passwords:
        """What hashes passwords, and verifies them."""
        return Passwords()

    @cached_property
    def attempts(self) -> Attempts:
        """How often a password may be tried."""
        return Attempts(self.store, self.settings.sign_in_limit)

    @cached_property
    def accounts(self) -> Accounts:
        """The people."""
        return Accounts(self.ledger, self.passwords, self.attempts, new_id)

    @cached_property
    def journal(self) -> Journal:
        """What tells of people apart from their accounts."""
        return Journal(self.ledger, new_id)

    @cached_property
    def incidents(self) -> Incidents:
        """Failed sign-ins and denied calls."""
        return Incidents(self.store, self.journal)

    @cached_property
    def sign_in(self) -> SignIn:
        """What lets people in."""
        return SignIn(self.ledger, self.passwords, self.attempts, self.incidents, self.journal)

    @cached_property
    def directory(self) -> Directory:
        """The list of people."""
        return Directory(self.store, self.ledger)

    @cached_property
    def audit_log(self) -> AuditLog:
        """The audit log."""
        if self.settings.audit_database_url:
            return AuditLog(self.settings.audit_database_url)
        make_data_directory(self.settings.data_dir)
        return AuditLog(f"sqlite:///{self.settings.data_dir / 'audit.db'}")

    @cached_property
    def inquiries(self) -> LedgerInquiries:
        """What answers the audit service about keys."""
        return LedgerInquiries(self.keys, self.usage)

    @cached_property
    def signer(self) -> Signer:
        """What signs for the audit log."""
        if self.settings.audit_key_file is None:
            make_data_directory(self.settings.data_dir)
        return Signer(self.settings.audit_key_file or self.settings.data_dir / "audit_key.pem")

    @cached_property
    def notary(self) -> Notary:
        """What adds checkpoints to the audit log."""
        return Notary(self.audit_log, self.signer, now_ms)

    @cached_property
    def standing(self) -> Standing:
        """What tells how the audit log stands."""
        return Standing(self.audit_log, self.ledger, self.signer, Failures(self.store), now_ms)

    @cached_property
    def exports(self) -> Exports:
        """What takes entries of the audit log away."""
        return Exports(self.audit_log, self.journal, self.signer, self.notary, now_ms)

    @cached_property
    def projector(self) -> Projector:
        """What builds the views."""
        return Projector(self.tailed_ledger, self.views)

    @cached_property
    def relay(self) -> Relay:
        """What tells the audit worker of new events."""
        return Relay(self.tailed_ledger, self.audit_log, Requests(self.store), now_ms)


def secret_key(settings: Settings) -> str:
    """What the cookies and forms are signed with: set, or made once and kept in the data directory."""
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    # Made whole under another name, then linked: of several processes one wins, and all read the same.
    draft = path.with_name(f"secret_key.{os.getpid()}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()
