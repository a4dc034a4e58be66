"""The forms for keys: converts their fields for the schemas, and lists the rules that the browser checks."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from marshmallow import Schema, fields, validate

from services.keys.model.key import Key
from services.keys.web.schemas import NewKeySchema, RevocationSchema
from shared.clock import rfc3339, typed_in_utc
from shared.eventstore.events import KeyDetails
from shared.identity import OWN_PREFIX
from shared.web.schemas import Text, Timestamp

_FIELDS: Mapping[str, fields.Field[Any]] = {
    name: field for name, field in NewKeySchema().fields.items() if name in KeyDetails.__struct_fields__
}


def texts_of(key: Key) -> dict[str, str]:
    """A key's details as text for the fields of a form."""
    return {name: _text(field, getattr(key, name)) for name, field in _FIELDS.items()}


def _text(field: fields.Field[Any], value: Any) -> str:
    match field:
        case fields.List():
            return "\n".join(value)
        case Timestamp():
            return "" if value is None else rfc3339(value).removesuffix("Z")
    return str(value)


def typed_in(form: Mapping[str, str], otherwise: Mapping[str, str] | None = None) -> dict[str, str]:
    """The fields of a form, with LF line breaks; fields that weren't sent come from `otherwise`."""
    left = otherwise or {}
    return {name: form.get(name, left.get(name, "")).replace("\r\n", "\n") for name in _FIELDS}


def read(texts: Mapping[str, str]) -> dict[str, object]:
    """The fields of a form as the schemas expect them."""
    return {name: _read(_FIELDS[name], text) for name, text in texts.items()}


def _read(field: fields.Field[Any], text: str) -> object:
    match field:
        case fields.List():
            return text.split()
        case Timestamp():
            return typed_in_utc(text) or None
    return text


@cache
def rules() -> Mapping[str, Mapping[str, Any]]:
    """The rules that the browser checks before it sends a form, with the messages of the schemas."""
    new, revocation = NewKeySchema(), RevocationSchema()
    scopes = cast("fields.List[str]", new.fields["scopes"])
    texts = {name: _longest(new, name) for name, field in _FIELDS.items() if isinstance(field, Text)}
    return texts | {
        "name": texts["name"] | {"empty": _message(new, "name", "")},
        "expires_at": {
            "unfinished": "Finish the date and the time, or clear the field.",  # the server never sees this
            "past": _message(new, "expires_at", "1970-01-01T00:00:00Z"),
        },
        "scopes": {
            "good": scopes.inner.metadata["pattern"],
            "own": OWN_PREFIX,  # only the server knows which of these exist
            "bad": _message(new, "scopes", ["?"]).replace("?", "{}", 1),
        },
        "reason": _longest(revocation, "reason"),
    }


def _longest(schema: Schema, field: str) -> dict[str, Any]:
    limits = (rule.max for rule in schema.fields[field].validators if isinstance(rule, validate.Length))
    limit = next(limit for limit in limits if limit is not None)
    return {"most": limit, "long": _message(schema, field, "n" * (limit + 1))}


def _message(schema: Schema, field: str, bad: object) -> str:
    message: str = schema.validate({field: bad})[field][0]
    return message
