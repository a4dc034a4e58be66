"""How JSON calls read what they are sent."""

import math
from collections.abc import Callable
from typing import Any

from flask import Request, abort
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser

from shared.schemas import NoQuerySchema

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class StrictParser(FlaskParser):
    """Refuses arguments in the address that it does not know, and a body that is not JSON."""

    # None: the schema says. Unknown headers are passed over, for they may be for somebody else.
    DEFAULT_UNKNOWN_BY_LOCATION = FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION | {"query": None}

    def load_json(self, req: Request, schema: Any) -> Any:
        """The body; none at all is as good as an empty object."""
        if not req.is_json and (req.content_length or "Transfer-Encoding" in req.headers):
            abort(415)
        # Of a body that does not tell its length, Werkzeug gives what fits, and says nothing of the rest.
        if req.content_length is None and len(req.get_data()) >= (req.max_content_length or math.inf):
            abort(413)
        try:
            return super().load_json(req, schema)
        except (RecursionError, ValueError) as error:  # endless nesting, numbers of thousands of digits
            self._handle_invalid_json_error(error, req)  # type: ignore[arg-type]  # it only passes it on


class Calls(Blueprint):  # type: ignore[misc]  # flask-smorest publishes no types
    """flask-smorest's blueprint, with arguments read strictly."""

    ARGUMENTS_PARSER = StrictParser()

    def without_query(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """For a call that takes no arguments in its address, so that none is silently passed over."""
        decorator: _Decorator = self.arguments(NoQuerySchema, location="query", as_kwargs=True)
        return decorator(view)
