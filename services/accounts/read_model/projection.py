"""The rows of the list of people, folded from the ledger. Pure."""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import msgspec

from services.accounts.model.account import Account, evolve
from shared.eventstore.codec import decode, name_of, open_envelope
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.events import SignedIn
from shared.eventstore.payload import ACCOUNT_SUBJECT, SIGN_IN_SUBJECT

VERSION = "1"  # another one whenever a row or its fold changes: it is built anew then
_SUBJECTS = (ACCOUNT_SUBJECT, SIGN_IN_SUBJECT)
# Looked for in the bytes first, for nearly all of a ledger is about keys. An actor may be an account too.
_MARKS = tuple(b'"subject":"' + subject.encode() for subject in _SUBJECTS)


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the list. Times are in ms. Without `account`, its events cannot be read whole."""

    email: str
    workspace: str
    account: Account | None
    added_at: int
    signed_in_at: int | None = None

    @property
    def status(self) -> str:
        """What people are told."""
        if self.account is None:
            return "unreadable"
        return "active" if self.account.enabled else "disabled"


class About(NamedTuple):
    """A record that tells of a person, by the address."""

    email: str
    record: Record


def about_people(records: Iterable[Record]) -> Iterator[About]:
    """Those of the records that tell of people; the others are not decoded."""
    for record in records:
        body = record.body
        if _MARKS[0] in body or _MARKS[1] in body:
            subject = name_of(record).subject or ""
            if subject.startswith(_SUBJECTS):
                yield About(subject.partition(":")[2], record)


def fold(person: AccountRow | None, tellings: Iterable[About]) -> AccountRow | None:
    """A row after more records about its person."""
    return reduce(_told, tellings, person)


def _told(person: AccountRow | None, told: About) -> AccountRow | None:
    try:
        event = decode(told.record)
    except UnreadableEventError:
        return _unreadable(person, told)
    if event.subject.startswith(SIGN_IN_SUBJECT):
        return _signed_in(person, event)
    return _changed(person, event, told)


def _signed_in(person: AccountRow | None, event: Event) -> AccountRow | None:
    if person is None or not isinstance(event.data, SignedIn):
        return person
    return msgspec.structs.replace(person, signed_in_at=event.at)


def _changed(person: AccountRow | None, event: Event, told: About) -> AccountRow | None:
    if person is not None and person.account is None:
        return person  # once it is not understood, what comes later is not either
    try:
        account = evolve(person.account if person else None, event)
    except UnreadableEventError:
        return _unreadable(person, told)
    if person is not None:
        return msgspec.structs.replace(person, account=account)
    return AccountRow(email=account.email, workspace=account.workspace, account=account, added_at=event.at)


def _unreadable(person: AccountRow | None, told: About) -> AccountRow | None:
    """Shown as it is known to be there, and no more."""
    name = name_of(told.record).subject or ""
    if name.startswith(SIGN_IN_SUBJECT):
        return person  # of an account that is whole itself
    if person is not None:
        return msgspec.structs.replace(person, account=None)
    try:
        workspace = open_envelope(told.record).workspace
    except UnreadableEventError:
        return None  # nobody can say whose
    return AccountRow(email=told.email, workspace=workspace, account=None, added_at=told.record.at)
