"""Commands on accounts."""

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
            "Your account was changed at the same moment, and you can't do this anymore. "
            "Nothing was changed. Reload the page."
        )


@dataclass(frozen=True)
class Accounts:
    """The people who may sign in. `new_id` names an event.

    A command depends on two accounts: the one that it changes and the caller's own, for two owners may demote
    each other at the same moment. The append compares the versions of both, so that one of the two is
    refused, and a workspace keeps an owner. The operator at the command line has no account.

    The commands that change one raise ForbiddenError, NoLongerAllowedError, NoSuchAccountError,
    InvalidFieldError, OwnAccountError, VersionConflictError (after several tries), UnreadableEventError,
    redis.RedisError; those that hash a password first TooManyAttemptsError and HasherBusyError.
    """

    ledger: Ledger
    passwords: Passwords
    attempts: LoginThrottle
    new_id: Callable[[], str]
    log: CommandLog = field(default_factory=CommandLog)

    @command("add_account")
    def add(self, principal: Principal, email: str, role: str, password: str, request: Request) -> Account:
        """Lets a person sign in to the workspace of the principal.

        Raises AccountExistsError too.
        """
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        address = checked_email(email)
        # Every spelling is looked for, so that no address gets a second account.
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
                # Only an account that was added at the same moment is in the way of a first event.
                raise AccountExistsError(address) from error

        return retried(add)

    @command("change_role")
    def change_role(self, principal: Principal, email: str, role: str, request: Request) -> Account:
        """Gives a person another role, which takes effect at their next request."""
        authorize(principal, ADMIN, granting=ROLES.get(role, ()))
        return self._changed_by_owner(principal, email, ChangeRole(role=role, by=principal.id), request).state

    @command("disable_account")
    def disable(self, principal: Principal, email: str, reason: str, request: Request) -> Account:
        """Ends a person's sessions, and lets them sign in no more."""
        return self._changed_by_owner(
            principal, email, DisableAccount(reason=reason, by=principal.id), request
        ).state

    @command("enable_account")
    def enable(self, principal: Principal, email: str, request: Request) -> Account:
        """Lets a person sign in again."""
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
        """Gives a person another password; False, and nothing happens, if an equal request did it already.

        It also lets in who has none, as nobody has after an import. Raises IdempotencyConflictError too.
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
        """Takes another password of one's own. Sessions end by it, at an older version than the new one.

        Tries are limited in each session, which `session` names: whoever found an open browser must not guess
        the password there.
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
        """Ends all of one's own sessions."""
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
        """The present state of an account. Raises UnreadableEventError."""
        return self._load(subject_of(self.ledger, email))

    def principal_of(self, account_subject: str, session_version: int) -> Principal | None:
        """Who an account is, and may do, at present.

        None if it may not sign in, or if it ended the sessions that began at this version of it.
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
        """The caller's account as it is now, which must still allow the command; none of the operator.

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
        """The stored form of a password that the caller gives to another person."""
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
    """The subject of the account that an address means, in whichever of its spellings it was added.

    The work is the same whether there is an account or not.
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
