"""Commands on accounts, all of one shape: load with the version, decide, append at the expected version."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

from services.accounts.attempts import Attempts
from services.accounts.credentials import Passwords
from services.accounts.domain import (
    Account,
    AccountExistsError,
    AddAccount,
    Change,
    ChangePassword,
    ChangeRole,
    DisableAccount,
    EnableAccount,
    OwnAccountError,
    SignOutEverywhere,
    checked_email,
    decide,
    decide_new,
    fold,
    normalized,
    subject,
)
from shared.commands import command
from shared.errors import AdvisedError, InvalidFieldError
from shared.events import Facts, NewEvent, Request, enveloped, recorded
from shared.identity import ADMIN, ROLES, Principal, authorize, visible
from shared.ledger import Appended, Idempotency, Ledger, VersionConflictError
from shared.tokens import without_keys

_ATTEMPTS = 5


class NoSuchAccountError(AdvisedError):
    """There is no such account in the caller's workspace."""

    def __init__(self, email: str) -> None:
        super().__init__(
            f"There is no account {without_keys(email)} in this workspace. Look at the list of accounts."
        )


class _RepeatedError(Exception):
    """An equal request came first, at the same moment."""


@dataclass(frozen=True)
class Accounts:
    """The people who may sign in. `new_id` names an event.

    The commands that change one raise ForbiddenError, NoSuchAccountError, InvalidFieldError, OwnAccountError,
    VersionConflictError (after several tries), UnreadableEventError, redis.RedisError.
    """

    ledger: Ledger
    passwords: Passwords
    attempts: Attempts
    new_id: Callable[[], str]

    @command("add_account")
    def add(self, principal: Principal, email: str, role: str, password: str, request: Request) -> Appended:
        """Lets a person sign in to the workspace of the principal.

        Raises ForbiddenError, InvalidFieldError, AccountExistsError, redis.RedisError.
        """
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        address = checked_email(email)
        facts = decide_new(AddAccount(role=role), self.load(address))
        events = self._enveloped(principal, subject(address), 0, facts, request)
        credential = self.passwords.hash_password(password)
        try:
            return self.ledger.append(subject(address), events, 0, credential=credential)
        except VersionConflictError as error:
            # Only an account that was added at the same moment is in the way of a first event.
            raise AccountExistsError(address) from error

    @command("change_role")
    def change_role(self, principal: Principal, email: str, role: str, request: Request) -> Account:
        """Gives a person another role, which takes effect at their next request."""
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        return self._changed_by_owner(principal, email, ChangeRole(role=role, by=principal.id), request)

    @command("disable_account")
    def disable(self, principal: Principal, email: str, reason: str, request: Request) -> Account:
        """Ends a person's sessions, and lets them sign in no more."""
        return self._changed_by_owner(
            principal, email, DisableAccount(reason=reason, by=principal.id), request
        )

    @command("enable_account")
    def enable(self, principal: Principal, email: str, request: Request) -> Account:
        """Lets a person sign in again."""
        return self._changed_by_owner(principal, email, EnableAccount(), request)

    @command("reset_password")
    def reset_password(
        self,
        principal: Principal,
        email: str,
        password: str,
        request: Request,
        idempotency: Idempotency | None = None,
    ) -> bool:
        """Gives a person another password; False, and nothing happens, if an equal request did it already.

        It also lets in who has none, as nobody has after an import. Raises IdempotencyConflictError too.
        """
        authorize(principal, ADMIN)
        if subject(email) == principal.id:
            raise OwnAccountError("Change your own password on the page Your account.")
        credential = self.passwords.hash_password(password)
        try:
            if self.ledger.recall(idempotency):
                return False
            self._changed_by_owner(principal, email, ChangePassword(), request, credential, idempotency)
        except _RepeatedError:
            return False
        return True

    @command("change_password")
    def change_password(self, principal: Principal, current: str, new: str, request: Request) -> Account:
        """Takes another password of one's own. Sessions end by it, at an older version than the new one.

        Raises TooManyAttemptsError too: whoever found an open browser must not guess the password there.
        """
        credential = self.passwords.hash_password(new)
        if new == current:
            raise InvalidFieldError("password", "The new password must be another one than the present one.")
        self.attempts.count(principal.id, request.ip)

        def decided(account: Account) -> Facts:
            if not self.passwords.verify(self.ledger.credential(account.subject), current):
                raise InvalidFieldError("current_password", "This is not your present password. Try again.")
            return decide(ChangePassword(), account)

        account = self._changed(principal, principal.id, decided, request, credential)
        self.attempts.succeeded(principal.id, request.ip)
        return account

    @command("sign_out_everywhere")
    def sign_out_everywhere(self, principal: Principal, request: Request) -> Account:
        """Ends all of one's own sessions."""
        return self._changed(
            principal, principal.id, lambda account: decide(SignOutEverywhere(), account), request
        )

    def find(self, principal: Principal, email: str) -> Account:
        """One account of the caller's workspace. Raises what the commands raise."""
        authorize(principal, ADMIN)
        return self._known(principal, subject(email))

    def own(self, principal: Principal) -> Account:
        """The caller's own. Raises NoSuchAccountError, UnreadableEventError, redis.RedisError."""
        return self._known(principal, principal.id)

    def load(self, email: str) -> Account | None:
        """The present state of an account. Raises UnreadableEventError."""
        return self._load(subject(email))

    def principal_of(self, account_subject: str, session_version: int) -> Principal | None:
        """Who an account is, and may do, at present.

        None if it may not sign in, or if it ended the sessions that began at this version of it.
        Raises UnreadableEventError, redis.RedisError.
        """
        account = self._load(account_subject)
        if account is None or not account.enabled or session_version < account.sessions_end:
            return None
        return _principal(account)

    def _load(self, account_subject: str) -> Account | None:
        return fold(self.ledger.history(account_subject))

    def _known(self, principal: Principal, account_subject: str) -> Account:
        account = visible(principal, self._load(account_subject))
        if account is None:
            raise NoSuchAccountError(normalized(account_subject.partition(":")[2]))
        return account

    def _changed_by_owner(
        self,
        principal: Principal,
        email: str,
        command: Change,
        request: Request,
        credential: str = "",
        idempotency: Idempotency | None = None,
    ) -> Account:
        authorize(principal, ADMIN)

        def decided(account: Account) -> Facts:
            authorize(principal, ADMIN, granting=ROLES[account.role])
            return decide(command, account)

        return self._changed(principal, subject(email), decided, request, credential, idempotency)

    def _changed(
        self,
        principal: Principal,
        account_subject: str,
        decided: Callable[[Account], Facts],
        request: Request,
        credential: str = "",
        idempotency: Idempotency | None = None,
    ) -> Account:
        """Loads, decides, and appends at the version that was decided on; again, if that is outdated."""
        for attempt in range(1, _ATTEMPTS + 1):
            account = self._known(principal, account_subject)
            facts = decided(account)
            if not facts:
                return account
            events = self._enveloped(principal, account_subject, account.version, facts, request)
            try:
                appended = self.ledger.append(
                    account_subject, events, account.version, idempotency, credential
                )
            except VersionConflictError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                if appended.repeated:
                    raise _RepeatedError
                happened = map(recorded, events, appended.positions, repeat(appended.at))
                return fold(happened, account) or account
        raise AssertionError("the last attempt returns or raises")

    def _enveloped(
        self, principal: Principal, account_subject: str, version: int, facts: Facts, request: Request
    ) -> list[NewEvent]:
        return enveloped(
            facts,
            subject=account_subject,
            after_version=version,
            workspace=principal.workspace,
            actor=principal.actor,
            request=request,
            new_id=self.new_id,
        )


def _principal(account: Account) -> Principal:
    return Principal(
        kind="account",
        id=account.subject,
        label=account.email,
        workspace=account.workspace,
        scopes=ROLES[account.role],
    )
