"""A browser without JavaScript: cookies and forms with their CSRF tokens."""

import html
import re

import requests

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_GIVEN = re.compile(r'<code id="given-password"[^>]*>([^<]+)</code>')


class Visitor(requests.Session):
    """A browser whose IP address comes from a proxy."""

    def __init__(self, url: str, address: str = "192.0.2.1", scheme: str = "http") -> None:
        super().__init__()
        self.url = url
        self.headers.update({"X-Forwarded-For": address, "X-Forwarded-Proto": scheme})

    @property
    def cookie(self) -> str:
        """Returns the value of the session cookie."""
        return next((c.value or "" for c in self.cookies if "keyledger_session" in c.name), "")

    def page(self, path: str) -> requests.Response:
        """Requests a page without following redirects."""
        return self.get(self.url + path, allow_redirects=False, timeout=60)

    def token(self, path: str = "/sign-in") -> str:
        """Returns the CSRF token of the forms on a page."""
        found = _TOKEN.search(self.page(path).text)
        assert found, path
        return html.unescape(found[1])

    def submit(
        self, path: str, form_at: str, headers: dict[str, str] | None = None, /, **fields: str
    ) -> requests.Response:
        """Submits a form of a page."""
        fields["csrf_token"] = self.token(form_at)
        return self.post(self.url + path, data=fields, headers=headers, allow_redirects=False, timeout=60)

    def sign_in(self, email: str, password: str) -> requests.Response:
        """Submits the sign-in form."""
        return self.submit("/sign-in", "/sign-in", email=email, password=password)

    def is_in(self) -> bool:
        """Returns whether the session is valid."""
        return self.page("/account").status_code == 200


def given_password(page: str) -> str:
    """Returns the password that a page shows once."""
    found = _GIVEN.search(page)
    assert found, page
    return found[1]
