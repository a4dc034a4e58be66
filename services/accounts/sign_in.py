"""Sign-in. Every failure takes the same time, returns the same result, and is recorded."""

from dataclasses import dataclass, field

import structlog
from redis.exceptions import OutOfMemoryError

from services.accounts.commands import subject_of
from services.accounts.login_throttle import LoginThrottle, TooManyAttemptsError
from services.accounts.model.account import Account, fold
from services.accounts.passwords import Passwords
from services.accounts.security_events import SecurityEventAggregator, sign_in_subject
from shared.eventstore.codec import decode
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Actor, Request
from shared.eventstore.events import SignedIn
from shared.eventstore.ledger import Ledger
from shared.process.command_log import CommandLog, command

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SignIn:
    """Signs in with an e-mail address and a password."""

    ledger: Ledger
    passwords: Passwords
    attempts: LoginThrottle
    incidents: SecurityEventAggregator
    journal: Journal
    log: CommandLog = field(default_factory=CommandLog)

    @command("sign_in")
    def __call__(self, email: str, password: str, request: Request) -> Account | None:
        """Returns the account; None for a wrong password and for an unknown or disabled account.

        Raises TooManyAttemptsError, HasherBusyError, redis.RedisError; with the right password
        UnreadableEventError too.
        """
        name = subject_of(self.ledger, email)
        try:
            with self.attempts.sign_in(name, request.ip):
                account = self._account(name, password)
        except TooManyAttemptsError:
            self._failed(name, request)
            raise
        if account is None:
            self._failed(name, request)
            return None
        self.attempts.signed_in(name, request.ip)
        self.journal.record(
            SignedIn(),
            subject=sign_in_subject(name),
            workspace=account.workspace,
            actor=Actor(kind="account", id=name, label=account.email),
            request=request,
        )
        return account

    def _account(self, name: str, password: str) -> Account | None:
        # The events are read before the password: if that changes between the two, the session begins at a
        # version before the change, which has already ended it. They are decoded only for a valid password.
        records = [*self.ledger.records(name)]
        if not self.passwords.verify(self.ledger.credential(name), password):
            return None
        account = fold(map(decode, records))
        return account if account and account.enabled else None

    def _failed(self, name: str, request: Request) -> None:
        # The same two calls to the store in each case: no password hashing hides a difference here.
        known = self.ledger.version(name) > 0
        try:
            self.incidents.sign_in_failed(name if known else None, request)
        except OutOfMemoryError:  # the response must not change
            _log.warning("a failed sign-in is not on record: the store is out of memory")
