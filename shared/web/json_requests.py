"""Reads the body, query and headers of API requests strictly."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from flask import Request, abort, request
from flask_smorest import Blueprint
from marshmallow import ValidationError, missing
from webargs.flaskparser import FlaskParser

from shared.web.schemas import NoQuerySchema

_REPEATED = "It is repeated. Send it once."


class StrictParser(FlaskParser):
    """Refuses unknown arguments in the URL, a body that isn't JSON, and whatever is given twice in either."""

    # None leaves it to the schema. Unknown headers are ignored, since they may be meant for a proxy.
    DEFAULT_UNKNOWN_BY_LOCATION = FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION | {"query": None}

    def load_json(self, req: Request, schema: Any) -> Any:
        """The body. No body at all counts as an empty object."""
        if not req.is_json and (req.content_length or "Transfer-Encoding" in req.headers):
            abort(415)
        # Werkzeug silently truncates a body that has no Content-Length.
        if req.content_length is None and len(req.get_data()) >= (req.max_content_length or math.inf):
            abort(413)
        try:
            return super().load_json(req, schema)
        except (RecursionError, ValueError) as error:  # endless nesting, numbers of thousands of digits
            self._handle_invalid_json_error(error, req)  # type: ignore[arg-type]  # it only passes it on

    def _raw_load_json(self, req: Request) -> Any:
        """What webargs calls for the value of the body."""
        body = req.get_data()
        return json_of(body) if body else missing

    def load_querystring(self, req: Request, schema: Any) -> Any:
        """The arguments in the URL."""
        if repeated := {name: [_REPEATED] for name, values in req.args.lists() if len(values) > 1}:
            raise ValidationError(repeated)
        return super().load_querystring(req, schema)


class Calls(Blueprint):  # type: ignore[misc]  # flask-smorest publishes no types
    """flask-smorest's blueprint, with arguments read strictly."""

    ARGUMENTS_PARSER = StrictParser()

    def arguments(self, schema: Any, **kwargs: Any) -> Any:
        """Creates the schema once: creating it takes longer than a request does."""
        return super().arguments(schema() if isinstance(schema, type) else schema, **kwargs)

    def without_query(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """For an endpoint without query parameters: refuses any, instead of ignoring it."""
        checked = self.arguments(NoQuerySchema, location="query", as_kwargs=True)(view)

        @wraps(checked)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            return (checked if request.query_string else view)(*args, **kwargs)

        return guarded


def json_of(body: bytes) -> Any:
    """Parses a JSON body. Raises ValueError, RecursionError; ValidationError if a name is repeated.

    Parsers disagree on which of two values counts, so neither does.
    """
    return json.loads(body.decode(), object_pairs_hook=_unrepeated)


def _unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValidationError({name: [_REPEATED] for name, count in counts.items() if count > 1})
    return found
