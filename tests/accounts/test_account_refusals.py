"""Error pages for refused account commands."""

import pytest
from flask import g

from services.accounts.commands import NoLongerAllowedError
from services.accounts.login_throttle import TooManyAttemptsError
from services.accounts.passwords import HasherBusyError
from tests.support.application import application


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (NoLongerAllowedError(), 409, None),
        (TooManyAttemptsError(90), 429, "90"),
        (HasherBusyError(), 503, "2"),
    ],
)
def test_a_refusal_shows_the_message_status_and_retry_after(
    error: Exception, status: int, retry_after: str | None
) -> None:
    app = application()
    with app.test_request_context("/accounts/new", method="POST"):
        g.request_id = "r1"
        response = app.make_response(app.handle_user_exception(error))
    assert (response.status_code, response.headers.get("Retry-After")) == (status, retry_after)
    assert str(error).split(".")[0].replace("'", "&#39;") in response.get_data(as_text=True)
