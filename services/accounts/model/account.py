"""The rules of an account: `decide(command, state) -> payloads`, `evolve(state, event) -> state`. Pure."""

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

EMAIL_LENGTH = 254  # the limit of an SMTP path (RFC 5321, 4.5.3.1.3)


class AccountExistsError(UserFacingError):
    """The e-mail address already has an account."""

    def __init__(self, email: str) -> None:
        super().__init__(f"{email} has an account already. Use another e-mail address.")


class OwnAccountError(UserFacingError):
    """The caller would lock themselves out. The message says who can do it instead."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account, folded from its events."""

    subject: str
    email: str
    workspace: str
    role: str
    enabled: bool
    password_is_given: bool  # it was set by somebody else and is temporary
    sessions_end: int  # the version that ended all earlier sessions; 0 if none did
    version: int


class AddAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Add an account."""

    role: str


class ChangeRole(msgspec.Struct, frozen=True, kw_only=True):
    """Change the role. `by` is the ID of the caller."""

    role: str
    by: str


class DisableAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Prevent sign-ins. `by` is the ID of the caller."""

    reason: str
    by: str


class EnableAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Allow sign-ins again."""


class ChangePassword(msgspec.Struct, frozen=True, kw_only=True):
    """Change the password, and end the sessions that began with the old one."""


class SignOutEverywhere(msgspec.Struct, frozen=True, kw_only=True):
    """End all sessions."""


Change: TypeAlias = ChangeRole | DisableAccount | EnableAccount | ChangePassword | SignOutEverywhere


def decide_new(command: AddAccount, account: Account | None) -> Payloads:
    """The events of a new account. Raises AccountExistsError, InvalidFieldError."""
    if account is not None:
        raise AccountExistsError(account.email)
    _check_role(command.role)
    return (AccountAdded(role=command.role),)


def decide(command: Change, account: Account) -> Payloads:
    """The events of a command; none if it changes nothing. Raises InvalidFieldError, OwnAccountError."""
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
    # A workspace always keeps the owner who makes the change.
    if by == account.subject:
        raise OwnAccountError(f"You cannot {what}. Ask another owner of your workspace to do it.")


def evolve(account: Account | None, event: Event) -> Account:
    """The account after one more event.

    Raises UnreadableEventError for an event that doesn't follow from the state, and for a role that this
    version of the code doesn't know: the permissions must not be guessed.
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
    """The account after its events, from a state or from none. Raises UnreadableEventError."""
    return reduce(evolve, history, account)


def subject(email: str) -> str:
    """The subject of an e-mail address in the ledger, the same for all spellings."""
    return ACCOUNT_SUBJECT + normalized(email)


def subjects(email: str) -> tuple[str, ...]:
    """The subjects that the account of an e-mail address can have; nearly always one.

    The last one is for accounts that were added before international domains were mapped.
    """
    return tuple(dict.fromkeys(ACCOUNT_SUBJECT + each for each in (*spellings(email), folded(email))))


def checked_email(email: str) -> str:
    """The normalized e-mail address of a new account. Raises InvalidFieldError."""
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
