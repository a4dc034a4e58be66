"""Commands on accounts, all of one shape: load, decide, append at the expected version; and signing in."""

from collections.abc import Callable
from dataclasses import dataclass

from services.accounts.credentials import Passwords
from services.accounts.domain import (
    Account,
    AccountExistsError,
    AddAccount,
    checked_email,
    decide,
    fold,
    subject,
)
from shared.events import Request, enveloped
from shared.identity import ADMIN, ROLES, Principal, authorize
from shared.ledger import Appended, Ledger, VersionConflictError


@dataclass(frozen=True)
class Accounts:
    """The people who may sign in. `new_id` names an event."""

    ledger: Ledger
    passwords: Passwords
    new_id: Callable[[], str]

    def add(self, principal: Principal, email: str, role: str, password: str, request: Request) -> Appended:
        """Lets a person sign in to the workspace of the principal.

        Raises ForbiddenError, InvalidFieldError, AccountExistsError, redis.RedisError.
        """
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        address = checked_email(email)
        facts = decide(AddAccount(role=role), self.load(address))
        events = enveloped(
            facts,
            subject=subject(address),
            after_version=0,
            workspace=principal.workspace,
            actor=principal.actor,
            request=request,
            new_id=self.new_id,
        )
        credential = self.passwords.hash_password(password)
        try:
            return self.ledger.append(subject(address), events, 0, credential=credential)
        except VersionConflictError as error:
            # Only an account that was added at the same moment is in the way of a first event.
            raise AccountExistsError(address) from error

    def load(self, email: str) -> Account | None:
        """The present state of an account. Raises UnreadableEventError."""
        return self._load(subject(email))

    def sign_in(self, email: str, password: str) -> Principal | None:
        """Who that is; none for a wrong password and an unknown address alike, after the same work.

        Raises UnreadableEventError, redis.RedisError.
        """
        name = subject(email)
        kept = self.ledger.credential(name)
        return self.principal_of(name) if self.passwords.verify(kept, password) else None

    def principal_of(self, account_subject: str) -> Principal | None:
        """Who an account is, and may do, at present. Raises UnreadableEventError, redis.RedisError."""
        account = self._load(account_subject)
        return _principal(account) if account else None

    def _load(self, account_subject: str) -> Account | None:
        return fold(self.ledger.history(account_subject))


def _principal(account: Account) -> Principal:
    return Principal(
        kind="account",
        id=account.subject,
        label=account.email,
        workspace=account.workspace,
        scopes=ROLES[account.role],
    )
