"""A stand-in for a revoked key whose history this version can't read completely. Pure."""

from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from services.keys.model.key import Key, evolve, key_id
from shared.eventstore.codec import decode, open_envelope
from shared.eventstore.envelope import Record, UnreadableEventError
from shared.eventstore.events import KeyRevoked


def is_revoked(record: Record) -> bool:
    """Whether a record is a revocation, of any schema."""
    try:
        return open_envelope(record).type == KeyRevoked.TYPE
    except UnreadableEventError:
        return False


def revoked_stub(records: Sequence[Record]) -> Key:
    """The revoked key as far as it can be read, for display only: it isn't the key's complete state.

    Raises UnreadableEventError if not even the first event can be opened.
    """
    first = open_envelope(records[0])
    key = Key(
        id=key_id(first.subject),
        workspace=first.workspace,
        name="",
        description="",
        hint="",
        digest="",
        scopes=(),
        expires_at=None,
        previous_digest=None,
        previous_expires_at=None,
        enabled=False,
        revoked=False,
        created_at=records[0].at,
        created_position=records[0].position,
        created_by=first.actor.label,
        updated_at=records[-1].at,
        version=len(records),
        created_by_kind=first.actor.kind,
    )
    with suppress(UnreadableEventError):
        readable: Key | None = None
        for record in records:
            readable = evolve(readable, decode(record))
            key = readable
    return replace(key, revoked=True, updated_at=records[-1].at, version=len(records))
