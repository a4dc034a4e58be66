"""Schemas of the audit log's endpoints and pages."""

from collections.abc import Mapping
from typing import Any, get_args

from marshmallow import ValidationError, fields, post_load, pre_dump, pre_load, validate

from services.audit.integrity.alarms import Alarm
from services.audit.integrity.findings import Kind
from services.audit.log.audit_entry import Integrity
from services.audit.log.filters import FILTERS, Filter
from services.audit.status import LastCheckpoint
from shared.clock import parse_rfc3339, rfc3339, typed_in_utc
from shared.eventstore.payload import Change
from shared.web.schemas import (
    ActorSchema,
    AnswerSchema,
    PageSchema,
    RequestSchema,
    StrictSchema,
    Timestamp,
    about,
    kind_of_actor,
    next_cursor,
)

_TEXT_LENGTH = 300
_AT = "2026-11-23T18:59:21.123Z"


class Minute(Timestamp):
    """Also takes a time from a form field, in UTC: `2026-11-23T18:59`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            return parse_rfc3339(typed_in_utc(value))
        except ValueError as error:
            raise ValidationError("It must be a time like 2026-11-23T18:59.") from error


def _fields(time: type[Timestamp]) -> dict[str, Any]:
    return {each.name: _field(each, time) for each in FILTERS}


def _field(of: Filter, time: type[Timestamp]) -> fields.Field[Any]:
    match of.kind:
        case "actor_kind":
            return kind_of_actor(of.description, load_default=None)
        case "time":
            return time(load_default=None, metadata=about(of.description, of.example))
        case "text":
            longest = validate.Length(max=_TEXT_LENGTH, error="Use up to {max} characters.")
            metadata = about(of.description, of.example)
            return fields.String(load_default=None, validate=longest, metadata=metadata)


class FiltersSchema(StrictSchema):
    """The filters as a query, `?key_id=&actor=`. Empty ones are ignored."""

    class Meta(StrictSchema.Meta):
        include = _fields(Timestamp)

    @pre_load
    def _without_empty(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value != ""}


class QuerySchema(FiltersSchema, PageSchema):
    """The same, and `&limit=&cursor=`."""

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The arguments of `Audit.page`."""
        limit, cursor = data.pop("limit"), data.pop("cursor")
        return {"criteria": data, "limit": limit, "cursor": cursor}


class TypedFiltersSchema(FiltersSchema):
    """The filters as the page's form sends them."""

    class Meta(StrictSchema.Meta):
        include = _fields(Minute)


class ChangeSchema(AnswerSchema):
    """A field that changed. `before` is null if it had no value."""

    field = fields.String(metadata=about("The field of the key or account.", "enabled"))
    before = fields.Raw(allow_none=True, metadata=about("Its old value.", example=True))
    after = fields.Raw(allow_none=True, metadata=about("Its new value.", example=False))

    @pre_dump
    def _print_times(self, change: Change, **_: Any) -> Change:
        if not change.is_time:
            return change
        before, after = (None if at is None else rfc3339(at) for at in (change.before, change.after))
        return change._replace(before=before, after=after)


class EntrySchema(AnswerSchema):
    """An entry. Fields that this version can't read are null."""

    position = fields.Integer(metadata=about("The event's position in the ledger.", 17))
    event_id = fields.String(
        attribute="event.id",
        allow_none=True,
        metadata=about("The event's ID.", "0e8a7c52b1f94e0c9d3f1a5b7c6d2e4f"),
    )
    at = Timestamp(metadata=about("When the event happened, by the ledger's clock.", _AT))
    type = fields.String(
        attribute="event.type", allow_none=True, metadata=about("The type of the event.", "KeyToggled")
    )
    title = fields.String(
        attribute="event.description.title", metadata=about("The event in words.", "Key disabled")
    )
    key_id = fields.String(
        attribute="event.key_id", allow_none=True, metadata=about("The key that changed.", "3fA9bQ27LmZ0")
    )
    subject = fields.String(
        attribute="event.subject",
        allow_none=True,
        metadata=about("The key, account or other subject of the event.", "key:3fA9bQ27LmZ0"),
    )
    workspace = fields.String(attribute="event.workspace", metadata=about("The workspace.", "default"))
    actor = fields.Nested(ActorSchema, attribute="event.actor")
    request = fields.Nested(RequestSchema, attribute="event.request")
    data = fields.Raw(
        attribute="event.data",
        allow_none=True,
        metadata=about("The event's data as the ledger stores it.", {"enabled": False, "reason": "leaked"}),
    )
    changes = fields.List(
        fields.Nested(ChangeSchema),
        attribute="event.description.changes",
        metadata=about("The fields that changed."),
    )
    entry_hash = fields.String(
        metadata=about("SHA-256 of the previous entry's hash and this entry's record, in hex.", "9f86d08…")
    )
    previous_hash = fields.String(metadata=about("The previous entry's hash.", "60303ae…"))
    integrity = fields.String(
        validate=validate.OneOf(get_args(Integrity)),
        metadata=about(
            "`mismatch` if the entry doesn't match the ledger or the entries next to it: it was changed. "
            "`ledger_shorter` if the ledger ends before it: an old copy of the store was restored.",
            "ok",
        ),
    )


class EntriesSchema(AnswerSchema):
    """A page of entries, newest first."""

    entries = fields.List(fields.Nested(EntrySchema))
    next_cursor = next_cursor()


class FindingSchema(AnswerSchema):
    """One kind of finding."""

    kind = fields.String(
        validate=validate.OneOf([kind.value for kind in Kind]),
        metadata=about("What is wrong with the entry, the log or its checkpoints.", "changed"),
    )
    count = fields.Integer(metadata=about("How many there are.", 1))
    position = fields.Integer(
        metadata=about("The first one: a position, or the number of a forged or missing checkpoint.", 17)
    )
    detail = fields.String(
        metadata=about("The first one in words.", "doesn't match its record and the chain: entry_hash")
    )


class LastCheckSchema(AnswerSchema):
    """The result of `keyledger audit check`."""

    at = Timestamp(metadata=about("When it ended.", _AT))
    by = fields.String(metadata=about("Who ran it.", "root (command line)"))
    sound = fields.Boolean(attribute="intact", metadata=about("Whether the log was intact.", example=True))
    position = fields.Integer(metadata=about("The last position of the log.", 1204))
    entries = fields.Integer(metadata=about("How many entries were checked.", 1204))
    checkpoints = fields.Integer(metadata=about("How many checkpoints were checked.", 3))
    findings = fields.List(
        fields.Nested(FindingSchema), metadata=about("One finding for each kind of problem.")
    )


class LastCheckpointSchema(AnswerSchema):
    """The last checkpoint, as the database has it. Verify the note with the public key."""

    sequence = fields.Integer(metadata=about("Its number; the first is 1.", 3))
    position = fields.Integer(metadata=about("It covers all entries up to this position.", 1204))
    time = Timestamp(metadata=about("When it was signed, by the signer's clock.", _AT))
    note = fields.String(
        metadata=about(
            "The signed note (c2sp.org/signed-note), Ed25519.",
            "keyledger audit checkpoint v1\nsequence 3\n…\n\n— keyledger-audit AbCd…=\n",
        )
    )

    @pre_dump
    def _unfold(self, last: LastCheckpoint, **_: Any) -> dict[str, Any]:
        return last.checkpoint._asdict() | {"note": last.note}


class AlarmSchema(AnswerSchema):
    """The first problem that was noticed since an operator acknowledged the last alarm."""

    at = Timestamp(metadata=about("When it was noticed.", _AT))
    kind = fields.String(
        validate=validate.OneOf([kind.value for kind in Kind]), metadata=about("What is wrong.", "cut off")
    )
    position = fields.Integer(metadata=about("The position, as in a finding.", 17))
    detail = fields.String(
        metadata=about("The problem in words.", "the log went up to position 57, and later ended at 16")
    )

    @pre_dump
    def _unfold(self, alarm: Alarm, **_: Any) -> dict[str, Any]:
        return alarm.finding._asdict() | {"at": alarm.at}


class IntegritySchema(AnswerSchema):
    """The status of the audit log, of all workspaces together."""

    alarm = fields.Nested(
        AlarmSchema,
        allow_none=True,
        metadata=about("The unacknowledged alarm, or null if there is none."),
    )

    last_check = fields.Nested(
        LastCheckSchema, allow_none=True, metadata=about("The last check, or null if there was none.")
    )
    last_checkpoint = fields.Nested(
        LastCheckpointSchema,
        allow_none=True,
        metadata=about("The last one, or null if there is none."),
    )
    public_key = fields.String(
        allow_none=True,
        metadata=about(
            "The key that verifies signatures, or null if it can't be read.", "keyledger-audit+0a1b2c3d+AbCd…"
        ),
    )
    position = fields.Integer(metadata=about("The last position in the log.", 1204))
    lag_events = fields.Integer(metadata=about("How many events of the ledger aren't in the log yet.", 0))
    lag_seconds = fields.Float(metadata=about("How long the oldest of these has been waiting.", 0.0))
    in_step = fields.Boolean(
        metadata=about("Whether the ledger has the last event of the log; if not, it went backwards.", True)
    )
