"""The OpenAPI 3.1 document: what flask-smorest generates from the schemas, with our additions.

A call says only what is its own. What calls have in common is added here, once: who may call, the errors
that follow from what a call takes, the headers of all answers, and examples made of those of the fields.
"""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.metadata import version
from typing import Any, NamedTuple

from apispec import BasePlugin
from flask import Flask

from shared.web.errors.problems import PROBLEMS, Refusal
from shared.web.openapi.components import BEARER, FRAME, HEADERS, INFO, REQUEST_ID

Json = dict[str, Any]

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_STATUSES = tuple(dict.fromkeys(str(problem.status) for problem in PROBLEMS.values()))
PROBLEM = "application/problem+json"


class SchemaRules(BasePlugin):
    """Adds a schema's docstring, and its JSON Schema rules that belong to no single field."""

    def schema_helper(self, name: str, definition: Json, **kwargs: Any) -> Json:  # noqa: ARG002  # its names
        """Called by apispec with each schema."""
        schema = kwargs.get("schema")
        described = {"description": _prose(schema.__doc__)} if schema is not None and schema.__doc__ else {}
        return described | getattr(schema, "json_schema", {})


def documented(view: Callable[..., Any], about: Json) -> None:
    """Adds facts to the description of a view; they hold also if the view is wrapped further."""
    known: Json = deepcopy(getattr(view, "_apidoc", {}))
    manual = known.setdefault("manual_doc", {})
    for name, value in about.items():
        manual[name] = manual.get(name, {}) | value if isinstance(value, dict) else value
    view._apidoc = known  # type: ignore[attr-defined]  # noqa: SLF001  # where flask-smorest keeps it


def needs_scope(scope: str, *, limited: bool = True) -> Json:
    """The facts of an operation that requires a bearer token."""
    refusals = (401, 403, 429, 503) if limited else (401, 403, 503)
    return {"security": [{"bearer": [scope]}], "responses": {status: {} for status in refusals}}


def completed(document: Json, app: Flask) -> Json:
    """The whole document, from all operations that are registered so far."""
    document = _without_null_defaults(document)
    tags = {tag["name"]: tag.get("description") or tag["name"] for tag in document.get("tags", ())}
    names = _operation_names(app)
    for path, method, operation in operations(document):
        operation["operationId"] = names[path, method]
        operation["tags"] = [tags[tag] for tag in operation["tags"]]
        of_path = document["paths"][path].get("parameters", [])
        for status in _refused_with(operation, of_path):
            operation["responses"].setdefault(status, {})
        _complete(operation, document)
    document["components"] |= {
        "responses": _refusals(),
        "headers": HEADERS,
        "securitySchemes": {"bearer": BEARER},
    }
    document["tags"] = [{"name": tag} for tag in tags.values()]
    document["info"] |= INFO | {"version": version("keyledger")}
    return document | FRAME


class Operation(NamedTuple):
    """One operation of a document."""

    path: str
    method: str
    content: Json


def operations(document: Json) -> Iterator[Operation]:
    """All operations of a document."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield Operation(path, method, item[method])


def resolved(document: Json, node: Json) -> Json:
    """The target of a reference, or the node itself if it isn't one."""
    while "$ref" in node:
        found: Any = document
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        node = found
    return node


def example(document: Json, schema: Json) -> Any:
    """An example of a schema, made from the examples of its fields. None if they have none."""
    schema = resolved(document, schema)
    if "examples" in schema:
        return schema["examples"][0]
    if "properties" in schema:
        values = {name: example(document, inner) for name, inner in schema["properties"].items()}
        return {name: value for name, value in values.items() if value is not None}
    if "items" in schema:
        item = example(document, schema["items"])
        return None if item is None else [item]
    if "anyOf" in schema:
        return example(document, schema["anyOf"][0])
    return schema.get("default")


def _without_null_defaults(node: Any) -> Any:
    """A copy without `default: null`, which tells callers nothing."""
    if isinstance(node, dict):
        return {
            name: _without_null_defaults(inner)
            for name, inner in node.items()
            if not (name == "default" and inner is None)
        }
    return [_without_null_defaults(inner) for inner in node] if isinstance(node, list) else node


def _complete(operation: Json, document: Json) -> None:
    """Adds errors, examples, and the headers that every request and response can have."""
    answers = operation["responses"]
    for status, answer in [*answers.items()]:
        if status in _STATUSES and (not answer or "$ref" in answer):
            answers[status] = {"$ref": f"#/components/responses/{_response_name(status)}"}
        else:
            answer["headers"] = headers("X-Request-Id") | answer.get("headers", {})
            _add_examples(answer, document)
    operation["responses"] = dict(sorted(answers.items()))
    if "requestBody" in operation:
        _add_examples(operation["requestBody"], document)
    operation.setdefault("parameters", []).append(REQUEST_ID)


def _refused_with(operation: Json, of_path: list[Json]) -> Iterator[str]:
    """The errors that an operation can return because of its inputs."""
    places = {(one["in"], one["name"]) for one in [*of_path, *operation.get("parameters", ())]}
    if "requestBody" in operation:
        yield from ("400", "413", "415", "422")
    if any(place in {"query", "header"} for place, _ in places):
        yield "422"
    if any(place == "path" for place, _ in places):
        yield "404"
    if ("header", "If-Match") in places:
        yield from ("409", "412")


def _add_examples(holder: Json, document: Json) -> None:
    for media in holder.get("content", {}).values():
        if "example" not in media and (made := example(document, media.get("schema", {}))) is not None:
            media["example"] = made


def _response_name(status: str) -> str:
    return f"Problem{status}"


def _refusals() -> Json:
    """For each status, what its problems mean, with an example of each by its code."""
    return {_response_name(status): _refused(status) for status in _STATUSES}


def _refused(status: str) -> Json:
    of_status = {code: one for code, one in PROBLEMS.items() if str(one.status) == status}
    sent_with = dict.fromkeys(name for one in of_status.values() for name in one.headers)
    return {
        "description": " ".join(f"`{code}`: {one.meaning}" for code, one in of_status.items()),
        "headers": headers("X-Request-Id", *sent_with),
        "content": {
            PROBLEM: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {
                    code: {"value": Refusal.of(code).body(one.example, "checkout-42", one.errors)}
                    for code, one in of_status.items()
                },
            }
        },
    }


def headers(*names: str) -> Json:
    """References to response headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def path_parameter(name: str, description: str, example: str) -> list[Json]:
    """A path parameter, as flask-smorest expects it."""
    return [{"in": "path", "name": name, "description": description, "required": True, "example": example}]


def query_parameter(name: str, description: str, example: str, pattern: str) -> Json:
    """A query parameter that no schema declares."""
    return {
        "in": "query",
        "name": name,
        "description": description,
        "required": False,
        "schema": {"type": "string", "pattern": pattern},
        "example": example,
    }


def _operation_names(app: Flask) -> dict[tuple[str, str], str]:
    """The operation ID of each operation: the name of its view."""
    names: dict[tuple[str, str], str] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule)
        name = rule.endpoint.rpartition(".")[2]
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}) or sorted(rule.methods or ())
        for method in sorted(rule.methods or ()):
            names[path, method.lower()] = name if methods == [method] else f"{name}_{method.lower()}"
    return names


def _prose(docstring: str) -> str:
    return re.sub(r"\s+", " ", docstring).strip()
