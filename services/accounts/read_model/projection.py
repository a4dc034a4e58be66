"""The rows of the list of accounts, folded from the ledger. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from services.accounts.model.account import Account, evolve
from shared.eventstore.codec import decode, name_of, open_envelope
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.events import SignedIn
from shared.eventstore.payload import ACCOUNT_SUBJECT, SIGN_IN_SUBJECT

VERSION = "1"  # increase it when a row or the fold changes: the list is then built again
_SUBJECTS = (ACCOUNT_SUBJECT, SIGN_IN_SUBJECT)
# Searched for in the bytes first, as most events of a ledger are about keys. An actor can match too.
_MARKS = tuple(b'"subject":"' + subject.encode() for subject in _SUBJECTS)


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the list. Times are in ms. `account` is None if an event of it can't be read."""

    email: str
    workspace: str
    account: Account | None
    added_at: int
    signed_in_at: int | None = None

    @property
    def status(self) -> str:
        if self.account is None:
            return "unreadable"
        return "active" if self.account.enabled else "disabled"


def account_records(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    """The records about accounts and sign-ins, each with the e-mail address. Others are not decoded."""
    for record in records:
        body = record.body
        if _MARKS[0] in body or _MARKS[1] in body:
            subject = name_of(record).subject or ""
            if subject.startswith(_SUBJECTS):
                yield subject.partition(":")[2], record


def fold(email: str, row: AccountRow | None, records: Iterable[Record]) -> AccountRow | None:
    """Returns the row of an account after more records about it."""
    for record in records:
        try:
            row = _apply(row, decode(record))
        except UnreadableEventError:
            row = _unreadable(email, row, record)
    return row


def _apply(row: AccountRow | None, event: Event) -> AccountRow | None:
    """Raises UnreadableEventError."""
    if event.subject.startswith(SIGN_IN_SUBJECT):
        if row is None or not isinstance(event.data, SignedIn):
            return row
        return msgspec.structs.replace(row, signed_in_at=event.at)
    if row is not None and row.account is None:
        return row  # an account that has an unreadable event stays unreadable
    account = evolve(row.account if row else None, event)
    if row is not None:
        return msgspec.structs.replace(row, account=account)
    return AccountRow(email=account.email, workspace=account.workspace, account=account, added_at=event.at)


def _unreadable(email: str, row: AccountRow | None, record: Record) -> AccountRow | None:
    name = name_of(record).subject or ""
    if name.startswith(SIGN_IN_SUBJECT):
        return row  # the account itself can be read
    if row is not None:
        return msgspec.structs.replace(row, account=None)
    try:
        workspace = open_envelope(record).workspace
    except UnreadableEventError:
        return None  # its workspace is unknown
    return AccountRow(email=email, workspace=workspace, account=None, added_at=record.at)
