"""A person at a browser without script: cookies, forms with their tokens, and nothing else."""

import html
import re

import requests

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_GIVEN = re.compile(r'<code id="given-password"[^>]*>([^<]+)</code>')


class Visitor(requests.Session):
    """One browser, at a network address that a proxy tells of."""

    def __init__(self, url: str, address: str = "192.0.2.1", scheme: str = "http") -> None:
        super().__init__()
        self.url = url
        self.headers.update({"X-Forwarded-For": address, "X-Forwarded-Proto": scheme})

    @property
    def cookie(self) -> str:
        """The value of the session's cookie."""
        return next((c.value or "" for c in self.cookies if "keyledger_session" in c.name), "")

    def page(self, path: str) -> requests.Response:
        """A page, without following where it leads."""
        return self.get(self.url + path, allow_redirects=False, timeout=60)

    def token(self, path: str = "/sign-in") -> str:
        """The CSRF token of the forms on a page."""
        found = _TOKEN.search(self.page(path).text)
        assert found, path
        return html.unescape(found[1])

    def submit(
        self, path: str, form_at: str, headers: dict[str, str] | None = None, /, **fields: str
    ) -> requests.Response:
        """Sends a form of a page."""
        fields["csrf_token"] = self.token(form_at)
        return self.post(self.url + path, data=fields, headers=headers, allow_redirects=False, timeout=60)

    def sign_in(self, email: str, password: str) -> requests.Response:
        """What the form of Sign in answers."""
        return self.submit("/sign-in", "/sign-in", email=email, password=password)

    def is_in(self) -> bool:
        """Whether the session is good."""
        return self.page("/account").status_code == 200


def given_password(page: str) -> str:
    """The password that a page shows this once."""
    found = _GIVEN.search(page)
    assert found, page
    return found[1]
