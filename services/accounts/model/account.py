"""Who may sign in: `decide(command, state) -> facts` and `evolve(state, event) -> state`. Pure."""

from collections.abc import Iterable
from functools import reduce
from typing import TypeAlias

import msgspec

from shared.errors import InvalidFieldError, UserFacingError
from shared.eventstore.envelope import Event, UnreadableEventError
from shared.eventstore.events import (
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    PasswordChanged,
    SignedOutEverywhere,
)
from shared.eventstore.payload import ACCOUNT_SUBJECT, Payloads
from shared.identity import ROLES
from shared.text.characters import is_blank, refused_character
from shared.text.email_addresses import folded, is_valid_domain, normalized, spellings

EMAIL_LENGTH = 254  # what fits into the path of an SMTP envelope (RFC 5321, 4.5.3.1.3)


class AccountExistsError(UserFacingError):
    """The address has an account already."""

    def __init__(self, email: str) -> None:
        super().__init__(f"{email} has an account already. Add a person by another e-mail address.")


class OwnAccountError(UserFacingError):
    """Somebody is about to lock themselves out; the message says whom to ask."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may sign in, folded from the account's events."""

    subject: str
    email: str
    workspace: str
    role: str
    enabled: bool
    password_is_given: bool  # by somebody else, so that two know it
    sessions_end: int  # the version that ended all sessions from before it; 0, if none did
    version: int


class AddAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Let a person sign in."""

    role: str


class ChangeRole(msgspec.Struct, frozen=True, kw_only=True):
    """Let a person do other things. `by` is the id of who wants it."""

    role: str
    by: str


class DisableAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Let a person sign in no more. `by` is the id of who wants it."""

    reason: str
    by: str


class EnableAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Let a person sign in again."""


class ChangePassword(msgspec.Struct, frozen=True, kw_only=True):
    """Take another password, and end the sessions that were begun with the old one."""


class SignOutEverywhere(msgspec.Struct, frozen=True, kw_only=True):
    """End all sessions."""


Change: TypeAlias = ChangeRole | DisableAccount | EnableAccount | ChangePassword | SignOutEverywhere


def decide_new(command: AddAccount, account: Account | None) -> Payloads:
    """What happens when a person is added. Raises AccountExistsError, InvalidFieldError."""
    if account is not None:
        raise AccountExistsError(account.email)
    _check_role(command.role)
    return (AccountAdded(role=command.role),)


def decide(command: Change, account: Account) -> Payloads:
    """What happens by a command; nothing, if it is so already. Raises InvalidFieldError, OwnAccountError."""
    match command:
        case ChangeRole(role=role, by=by):
            _check_role(role)
            if role == account.role:
                return ()
            _refuse_oneself(by, account, "change your own role")
            return (AccountRoleChanged(before=account.role, after=role),)
        case DisableAccount(reason=reason, by=by):
            _refuse_oneself(by, account, "disable your own account")
            return (AccountDisabled(reason=reason),) if account.enabled else ()
        case EnableAccount():
            return () if account.enabled else (AccountEnabled(),)
        case ChangePassword():
            return (PasswordChanged(),)
        case SignOutEverywhere():
            return (SignedOutEverywhere(),)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidFieldError("role", f"The role must be one of {', '.join(ROLES)}.")


def _refuse_oneself(by: str, account: Account, what: str) -> None:
    # So a workspace keeps the owner who is at work.
    if by == account.subject:
        raise OwnAccountError(f"You cannot {what}. Ask another owner of your workspace to do it.")


def evolve(account: Account | None, event: Event) -> Account:
    """The account after one more event.

    Raises UnreadableEventError on one that does not follow from the state, and on a role that this
    version of the code does not know: nobody may guess then what the person may do.
    """
    version = account.version if account else 0
    follows = event.version == version + 1
    changed = (_changed(account, event) if account else _added(event)) if follows else None
    if changed is None:
        reason = f"{event.type} of version {event.version} cannot be understood after version {version}"
        raise UnreadableEventError(event.position, event.subject, reason)
    return msgspec.structs.replace(changed, version=event.version)


def _added(event: Event) -> Account | None:
    match event.data:
        case AccountAdded(role=role) if role in ROLES:
            return Account(
                subject=event.subject,
                email=event.subject.removeprefix(ACCOUNT_SUBJECT),
                workspace=event.workspace,
                role=role,
                enabled=True,
                password_is_given=True,
                sessions_end=0,
                version=event.version,
            )
    return None


def _changed(account: Account, event: Event) -> Account | None:
    match event.data:
        case AccountRoleChanged(after=role) if role in ROLES:
            return msgspec.structs.replace(account, role=role)
        case AccountDisabled():
            return msgspec.structs.replace(account, enabled=False, sessions_end=event.version)
        case AccountEnabled():
            return msgspec.structs.replace(account, enabled=True)
        case PasswordChanged():
            given = event.actor.kind != "account" or event.actor.id != account.subject
            return msgspec.structs.replace(account, password_is_given=given, sessions_end=event.version)
        case SignedOutEverywhere():
            return msgspec.structs.replace(account, sessions_end=event.version)
    return None


def fold(history: Iterable[Event], account: Account | None = None) -> Account | None:
    """The account that its events make, after a state or from none. Raises UnreadableEventError."""
    return reduce(evolve, history, account)


def subject(email: str) -> str:
    """The name of an account in the ledger: one address has one, however it is typed."""
    return ACCOUNT_SUBJECT + normalized(email)


def subjects(email: str) -> tuple[str, ...]:
    """The subjects that an account may have by the spellings of its address; nearly always one.

    The last is only for accounts from before international domains were mapped.
    """
    return tuple(dict.fromkeys(ACCOUNT_SUBJECT + each for each in (*spellings(email), folded(email))))


def checked_email(email: str) -> str:
    """The normalized address of a new account. Raises InvalidFieldError."""
    address = normalized(email)
    if any(len(spelling) > EMAIL_LENGTH for spelling in spellings(email)):
        raise InvalidFieldError("email", f"The e-mail address can have up to {EMAIL_LENGTH} characters.")
    if refused_character(address) or any(map(is_blank, address)):
        raise InvalidFieldError(
            "email",
            "The e-mail address can't contain spaces, control characters or invisible characters.",
        )
    local, at, domain = address.partition("@")
    if not (local and at and domain) or "@" in domain:
        raise InvalidFieldError(
            "email", "The e-mail address must have one @ with something on both sides, like ada@example.com."
        )
    if not is_valid_domain(domain):
        raise InvalidFieldError(
            "email", "The e-mail address must have a valid domain. Check the part after the @."
        )
    return address
