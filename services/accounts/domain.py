"""Who may sign in: `decide(command, state) -> facts` and `evolve(state, event) -> state`. Pure."""

import unicodedata
from collections.abc import Iterable
from functools import reduce

import msgspec

from shared.events import ACCOUNT_SUBJECT, AccountAdded, Event, Facts, UnreadableEventError
from shared.identity import ROLES

EMAIL_LENGTH = 254  # what fits into the path of an SMTP envelope (RFC 5321, 4.5.3.1.3)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})


class InvalidFieldError(ValueError):
    """What was typed breaks a rule; the message names the field and the rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class AccountExistsError(Exception):
    """The address has an account already."""

    def __init__(self, email: str) -> None:
        super().__init__(f"{email} has an account already. Add a person by another e-mail address.")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may sign in, folded from the account's events."""

    subject: str
    email: str
    workspace: str
    role: str
    version: int


class AddAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Let a person sign in."""

    role: str


def decide(command: AddAccount, account: Account | None) -> Facts:
    """What happens by a command. Raises AccountExistsError, InvalidFieldError."""
    if account is not None:
        raise AccountExistsError(account.email)
    if command.role not in ROLES:
        raise InvalidFieldError("role", f"The role must be one of {', '.join(ROLES)}.")
    return (AccountAdded(role=command.role),)


def evolve(account: Account | None, event: Event) -> Account:
    """The account after one more event.

    Raises UnreadableEventError on one that does not follow from the state, and on a role that this
    version of the code does not know: nobody may guess then what the person may do.
    """
    version = account.version if account else 0
    match event.data, account:
        case AccountAdded(role=role), None if event.version == version + 1 and role in ROLES:
            return Account(
                subject=event.subject,
                email=event.subject.removeprefix(ACCOUNT_SUBJECT),
                workspace=event.workspace,
                role=role,
                version=event.version,
            )
        case _:
            reason = f"{event.type} of version {event.version} cannot be understood after version {version}"
            raise UnreadableEventError(event.position, event.subject, reason)


def fold(history: Iterable[Event]) -> Account | None:
    """The account that its events make; none of no events. Raises UnreadableEventError."""
    account: Account | None = None
    return reduce(evolve, history, account)


def subject(email: str) -> str:
    """The name of an account in the ledger: one address has one, however it is typed."""
    return ACCOUNT_SUBJECT + normalized(email)


def normalized(email: str) -> str:
    """An address as it is compared and kept: without blanks around it, in NFC, case folded."""
    # Folding can take a text out of NFC, so that it is brought there again.
    folded = unicodedata.normalize("NFC", email.strip()).casefold()
    return unicodedata.normalize("NFC", folded)


def checked_email(email: str) -> str:
    """The normalized address of a new account. Raises InvalidFieldError."""
    address = normalized(email)
    if len(address) > EMAIL_LENGTH:
        raise InvalidFieldError("email", f"The e-mail address may have {EMAIL_LENGTH} characters at most.")
    if any(unicodedata.category(character) in _INVISIBLE for character in address):
        raise InvalidFieldError("email", "The e-mail address may have no blanks or control characters.")
    local, at, domain = address.partition("@")
    if not (local and at and domain) or "@" in domain:
        raise InvalidFieldError(
            "email", "The e-mail address must have one @ with something on both sides, like ada@example.com."
        )
    return address
