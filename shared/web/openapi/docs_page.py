"""The OpenAPI document, prepared for the page `/docs`."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from shared.web.openapi.document import PROBLEM, Operation, operations, resolved

Json = dict[str, Any]

_PLACES = {"path": "in the URL", "query": "in the query", "header": "a header"}
_RULES = {
    "minimum": "from {}",
    "maximum": "up to {}",
    "maxLength": "up to {} characters",
    "maxItems": "up to {} items",
    "default": "default {}",
}


class Row(NamedTuple):
    """A parameter, or a field of a body."""

    name: str
    kind: str  # what it is, in words
    required: bool
    description: str
    place: str = ""


class Span(NamedTuple):
    """A span of text: `plain`, `code` or `strong`."""

    kind: str
    text: str


class Body(NamedTuple):
    """The body of a request or a response."""

    media_type: str
    rows: list[Row]
    example: str


class Answer(NamedTuple):
    """One response of an operation."""

    status: str
    description: str
    headers: list[Row]
    bodies: list[Body]

    @property
    def is_refusal(self) -> bool:
        """Whether the response reports an error."""
        return self.status >= "4"


class Call(NamedTuple):
    """One operation."""

    id: str
    methods: list[str]
    path: str
    summary: str
    description: str
    scopes: list[str]
    parameters: list[Row]
    bodies: list[Body]
    answers: list[Answer]


class Group(NamedTuple):
    """The operations of one tag."""

    name: str
    calls: list[Call]


def groups(document: Json) -> list[Group]:
    """All operations, grouped by tag."""
    calls: dict[str, dict[tuple[str, str], Call]] = {tag["name"]: {} for tag in document["tags"]}
    for operation in operations(document):
        call = _call(document, operation)
        group = calls[operation.content["tags"][0]]
        same = group.get((call.path, call.summary))  # one view may take several methods
        merged = same._replace(methods=[*same.methods, *call.methods]) if same else call
        group[call.path, call.summary] = merged
    return [Group(name, [*group.values()]) for name, group in calls.items() if group]


def _call(document: Json, operation: Operation) -> Call:
    content = operation.content
    return Call(
        id=content["operationId"],
        methods=[operation.method.upper()],
        path=operation.path,
        summary=content["summary"],
        description=content.get("description", ""),
        scopes=[scope for way in content.get("security", ()) for scope in way.get("bearer", ())],
        parameters=[_parameter(document, one) for one in _parameters(document, operation)],
        bodies=_bodies(document, content.get("requestBody", {})),
        answers=[
            _answer(document, status, resolved(document, answer))
            for status, answer in content["responses"].items()
        ],
    )


def _parameters(document: Json, operation: Operation) -> Iterator[Json]:
    for one in (*document["paths"][operation.path].get("parameters", ()), *operation.content["parameters"]):
        yield resolved(document, one)


def _parameter(document: Json, one: Json) -> Row:
    kind = kind_of(document, one["schema"])
    return Row(one["name"], kind, one.get("required", False), one.get("description", ""), _PLACES[one["in"]])


def _answer(document: Json, status: str, answer: Json) -> Answer:
    headers = [
        Row(name, kind_of(document, header["schema"]), header.get("required", False), header["description"])
        for name, header in (
            (name, resolved(document, header)) for name, header in answer.get("headers", {}).items()
        )
    ]
    return Answer(status, answer["description"], headers, _bodies(document, answer))


def _bodies(document: Json, holder: Json) -> list[Body]:
    return [
        # What every error is made of is told once, above; its example says the rest.
        Body(
            media_type,
            [] if media_type == PROBLEM else [*_rows(document, media.get("schema", {}))],
            _pretty(_example(media)),
        )
        for media_type, media in holder.get("content", {}).items()
    ]


def _example(media: Json) -> Any:
    """The example, or the first of several."""
    several: Json = media.get("examples", {})
    return next((one["value"] for one in several.values()), media.get("example"))


def _rows(document: Json, schema: Json, path: str = "") -> Iterator[Row]:
    """The fields of an object, with those of the objects inside."""
    schema = resolved(document, schema)
    for name, field in schema.get("properties", {}).items():
        inner = resolved(document, field)
        described = field.get("description") or inner.get("description", "")
        yield Row(path + name, kind_of(document, field), name in schema.get("required", ()), described)
        yield from _rows(document, inner, f"{path}{name}.")
        if "items" in inner:
            yield from _rows(document, inner["items"], f"{path}{name}[].")


def kind_of(document: Json, schema: Json) -> str:
    """Describes a value in words: its type, its choices and its bounds."""
    schema = resolved(document, schema)
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(kind_of(document, inner) for inner in schema["anyOf"])
    types = schema.get("type", "any value")
    words = " or ".join(types) if isinstance(types, list) else types
    if schema.get("format") == "date-time":
        words = words.replace("string", "time")
    if "items" in schema:
        words = words.replace("array", f"list of {kind_of(document, schema['items'])}s")
    if "enum" in schema:
        words = " | ".join(str(choice) for choice in schema["enum"])
    rules = [
        words_of.format(json.dumps(schema[rule]))
        for rule, words_of in _RULES.items()
        if schema.get(rule) not in (None, "", [])
    ]
    return ", ".join([words, *rules])


def spans(text: str) -> list[Span]:
    """Splits a text into spans, by the Markdown that the descriptions use."""
    pieces = re.split(r"(\*\*.+?\*\*|`.+?`)", text)
    return [_span(piece) for piece in pieces if piece]


def _span(piece: str) -> Span:
    if piece.startswith("`"):
        return Span("code", piece.strip("`"))
    return Span("strong", piece.strip("*")) if piece.startswith("**") else Span("plain", piece)


def _pretty(example: Any) -> str:
    return "" if example is None else json.dumps(example, indent=2, ensure_ascii=False)
