"""Commands on accounts. They are one module because they share the guard that protects the last owner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from services.accounts.login_throttle import LoginThrottle
from services.accounts.model.account import (
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
    evolve,
    fold,
    subject,
    subjects,
)
from services.accounts.passwords import Passwords
from shared.errors import InvalidFieldError, UserFacingError
from shared.eventstore.command_handler import Author, CommandHandler, Handled, retried
from shared.eventstore.envelope import Record, Request
from shared.eventstore.ledger import Guard, Ledger, VersionConflictError
from shared.eventstore.payload import ACCOUNT_SUBJECT, Payloads
from shared.identity import ADMIN, ROLES, Principal, authorize, visible
from shared.process.command_log import CommandLog, command
from shared.store.idempotency import Idempotency
from shared.text.email_addresses import normalized, spellings
from shared.text.key_detection import without_keys


class NoSuchAccountError(UserFacingError):
    """There is no such account in the caller's workspace."""

    def __init__(self, email: str) -> None:
        super().__init__(
            f"There is no account {without_keys(email)} in this workspace. Check the list of accounts."
        )


class NoLongerAllowedError(UserFacingError):
    """The caller's own account was changed while the request was in flight, so nothing was done."""

    def __init__(self) -> None:
        super().__init__(
            "Your account was changed at the same time, and you can't do this anymore. "
            "Nothing was changed. Reload the page."
        )


@dataclass(frozen=True)
class Accounts:
    """The accounts of users. `new_id` returns the ID of an event.

    A command depends on two accounts, the one that it changes and the caller's own, because two owners could
    demote each other at the same time. The append checks the versions of both, so that one of the two
    commands is refused and the workspace keeps an owner. The operator at the command line has no account.

    The commands that change an account raise ForbiddenError, NoLongerAllowedError, NoSuchAccountError,
    InvalidFieldError, OwnAccountError, VersionConflictError (after several attempts), UnreadableEventError,
    redis.RedisError; those that hash a password also raise TooManyAttemptsError and HasherBusyError.
    """

    ledger: Ledger
    passwords: Passwords
    attempts: LoginThrottle
    new_id: Callable[[], str]
    log: CommandLog = field(default_factory=CommandLog)

    @command("add_account")
    def add(self, principal: Principal, email: str, role: str, password: str, request: Request) -> Account:
        """Adds an account to the principal's workspace. Raises AccountExistsError too."""
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        address = checked_email(email)
        # Every spelling is checked, so that no e-mail address gets a second account.
        known = (self._load(ACCOUNT_SUBJECT + spelling) for spelling in spellings(email))
        payloads = decide_new(AddAccount(role=role), next(filter(None, known), None))
        self.passwords.check(password)
        self._guard(principal, ADMIN)
        credential = self._given(principal, password)

        def add() -> Account:
            guard = self._guard(principal, ADMIN)
            author = _author(principal, request)
            try:
                return self._handler.append(
                    subject(address), payloads, author, credential=credential, guard=guard
                ).state
            except VersionConflictError as error:
                if error.subject != subject(address):
                    raise
                # Only an account that was added at the same time can conflict with a first event.
                raise AccountExistsError(address) from error

        return retried(add)

    @command("change_role")
    def change_role(self, principal: Principal, email: str, role: str, request: Request) -> Account:
        """Changes the role, which takes effect at the next request."""
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        return self._changed_by_owner(principal, email, ChangeRole(role=role, by=principal.id), request).state

    @command("disable_account")
    def disable(self, principal: Principal, email: str, reason: str, request: Request) -> Account:
        """Ends all sessions, and prevents sign-ins."""
        return self._changed_by_owner(
            principal, email, DisableAccount(reason=reason, by=principal.id), request
        ).state

    @command("enable_account")
    def enable(self, principal: Principal, email: str, request: Request) -> Account:
        return self._changed_by_owner(principal, email, EnableAccount(), request).state

    @command("reset_password")
    def reset_password(
        self,
        principal: Principal,
        email: str,
        password: str,
        request: Request,
        idempotency: Idempotency | None = None,
    ) -> bool:
        """Sets a temporary password. Returns False, and does nothing, if an equal request did it already.

        The account may have no password, as after an import. Raises IdempotencyConflictError too.
        """
        if self.find(principal, email).subject == principal.id:
            raise OwnAccountError("Change your own password on the page Your account.")
        if self.ledger.recall(idempotency):
            return False
        self.passwords.check(password)
        self._guard(principal, ADMIN)
        credential = self._given(principal, password)
        changed = self._changed_by_owner(principal, email, ChangePassword(), request, credential, idempotency)
        return not changed.repeated

    @command("change_password")
    def change_password(
        self, principal: Principal, current: str, new: str, request: Request, session: str = ""
    ) -> Account:
        """Changes the caller's own password, and ends all older sessions.

        Attempts are limited in each session, so that nobody can guess the password in an open browser.
        """
        self.passwords.check(new)
        if new == current:
            raise InvalidFieldError("password", "The new password must be different from the current one.")
        self._guard(principal)
        kept = self.ledger.credential(principal.id)
        with self.attempts.password_change(principal.id, session):
            credential = self.passwords.replace(kept, current, new)
        if credential is None:
            raise InvalidFieldError("current_password", "That isn't your current password. Try again.")
        return self._changed(
            principal, principal.id, lambda account: decide(ChangePassword(), account), request, credential
        ).state

    @command("sign_out_everywhere")
    def sign_out_everywhere(self, principal: Principal, request: Request) -> Account:
        """Ends all of the caller's own sessions."""
        return self._changed(
            principal, principal.id, lambda account: decide(SignOutEverywhere(), account), request
        ).state

    def find(self, principal: Principal, email: str) -> Account:
        """One account of the caller's workspace. Raises what the commands raise."""
        authorize(principal, ADMIN)
        return self._known(principal, subject_of(self.ledger, email))

    def own(self, principal: Principal) -> Account:
        """The caller's own. Raises NoSuchAccountError, UnreadableEventError, redis.RedisError."""
        return self._known(principal, principal.id)

    def load(self, email: str) -> Account | None:
        """The current state of an account. Raises UnreadableEventError."""
        return self._load(subject_of(self.ledger, email))

    def principal_of(self, account_subject: str, session_version: int) -> Principal | None:
        """The principal of a session that began at a version of an account.

        Returns None if the account is disabled or has ended the session.
        Raises UnreadableEventError, redis.RedisError.
        """
        account = self._signed_in(account_subject, session_version)
        return _principal(account, session_version) if account else None

    def _signed_in(self, account_subject: str, session_version: int) -> Account | None:
        account = self._load(account_subject)
        if account is None or not account.enabled or session_version < account.sessions_end:
            return None
        return account

    def _guard(self, principal: Principal, scope: str | None = None) -> Guard | None:
        """The caller's account, which must still allow the command. None for the operator.

        Raises NoLongerAllowedError, UnreadableEventError, redis.RedisError.
        """
        if principal.kind == "operator":
            return None
        account = self._signed_in(principal.id, principal.session_version)
        if account is None or visible(principal, account) is None:
            raise NoLongerAllowedError
        if scope is not None and not _principal(account, principal.session_version).may(scope):
            raise NoLongerAllowedError
        return Guard(account.subject, account.version)

    def _given(self, principal: Principal, password: str) -> str:
        """The stored form of a temporary password for another account."""
        if principal.kind == "operator":
            return self.passwords.hash_password(password)
        with self.attempts.given_password(principal.id):
            return self.passwords.hash_password(password)

    def _load(self, account_subject: str) -> Account | None:
        return fold(self.ledger.history(account_subject))

    def _known(self, principal: Principal, account_subject: str) -> Account:
        account = visible(principal, self._load(account_subject))
        if account is None:
            raise _no_such_account(account_subject)
        return account

    def _changed_by_owner(
        self,
        principal: Principal,
        email: str,
        command: Change,
        request: Request,
        credential: str = "",
        idempotency: Idempotency | None = None,
    ) -> Handled[Account]:
        authorize(principal, ADMIN)

        def decided(account: Account) -> Payloads:
            authorize(principal, ADMIN, granting=ROLES[account.role])
            return decide(command, account)

        return self._changed(
            principal, subject_of(self.ledger, email), decided, request, credential, idempotency, ADMIN
        )

    def _changed(
        self,
        principal: Principal,
        account_subject: str,
        decided: Callable[[Account], Payloads],
        request: Request,
        credential: str = "",
        idempotency: Idempotency | None = None,
        scope: str | None = None,
    ) -> Handled[Account]:
        def seen_and_decided(account: Account) -> Payloads:
            if visible(principal, account) is None:
                raise _no_such_account(account_subject)
            return decided(account)

        return self._handler.handle(
            account_subject,
            seen_and_decided,
            _author(principal, request),
            load=self._records,
            guard=partial(self._guard, principal, scope),
            idempotency=idempotency,
            credential=credential,
        )

    def _records(self, account_subject: str) -> Sequence[Record]:
        records = [*self.ledger.records(account_subject)]
        if not records:
            raise _no_such_account(account_subject)
        return records

    @cached_property
    def _handler(self) -> CommandHandler[Account]:
        return CommandHandler(self.ledger, self.new_id, evolve)


def subject_of(ledger: Ledger, email: str) -> str:
    """The subject of an e-mail address, in the spelling that its account was added by.

    Takes the same time whether the account exists or not.
    """
    names = subjects(email)
    if len(names) == 1:
        return names[0]
    known = [name for name in names if ledger.version(name)]
    return known[0] if known else subject(email)


def _no_such_account(account_subject: str) -> NoSuchAccountError:
    return NoSuchAccountError(normalized(account_subject.partition(":")[2]))


def _author(principal: Principal, request: Request) -> Author:
    return Author(principal.workspace, principal.actor, request)


def _principal(account: Account, session_version: int) -> Principal:
    return Principal(
        kind="account",
        id=account.subject,
        label=account.email,
        workspace=account.workspace,
        scopes=ROLES[account.role],
        session_version=session_version,
    )
