"""Takes screenshots of every page and state, at 360 and 1280 px, light and dark, in `screenshots/`.

Every page of the URL map that is read by GET has its picture, so that a new one is seen too; states that a
click or a mistake leads to are listed below.
"""

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from rq import Queue
from rq.serializers import JSONSerializer

from services.audit.components import AuditComponents
from services.audit.ingest.job import QUEUE
from services.audit.status import CHECKS
from services.cli.terminal import operator, request
from services.keys.verification.usage import Usage
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.e2e.chromium import launched
from tests.support.application import application
from tests.support.processes import until
from tests.support.service import Service

FOLDER = Path("screenshots")
WIDTHS = {360: 780, 1280: 860}
SCHEMES = ("light", "dark")
NOT_PAGES = ("/", "/openapi.json", "/healthz", "/readyz", "/statusz", "/metrics", "/v1/")
QUERIES = {
    "/accounts/person": "?email=dev@example.org",
    "/accounts/password": "?email=dev@example.org",
    "/audit/timeline": "?of=<key_id>",
}
PASSWORD = "a password for the pictures"
DAY_MS = 24 * 60 * 60 * 1000
LONG = "Nightly-export-of-all-orders-to-the-data-warehouse-of-the-finance-department (do not disable!)"
Json = dict[str, Any]


class Scene:
    """A Keyledger with sample data and accounts."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
        for name, role in (("olga", "owner"), ("dev", "developer"), ("auditor", "auditor")):
            service.account(f"{name}@example.org", role, PASSWORD)
        service.account("new@example.org", "owner", PASSWORD, "fresh")
        self.keys = self.make_keys()
        self.use()

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Calls the API."""
        url = f"{self.service.url}/v1{path}"
        answer = requests.request(method, url, json=body, headers=self.bearer, timeout=60)
        assert answer.ok, answer.text
        return {"position": answer.headers.get("X-Ledger-Position")} | (
            answer.json() if answer.content else {}
        )

    def make_keys(self) -> dict[str, Json]:
        """Creates a key for each appearance of a row in the list."""
        soon = "2099-01-01T00:00:00Z"
        made: dict[str, Json] = {
            "plain": {"name": "My Web App Integration", "description": "The shop's front end"},
            "rtl": {"name": "مفتاح الواجهة الأمامية", "description": "يستخدمه تطبيق الهاتف"},
            "long": {"name": LONG, "description": "Runs at two in the morning. " * 12},
            "inactive": {"name": "Old Importer", "description": "Waits for its successor"},
            "revoked": {"name": "Leaked in a gist"},
            "expired": {"name": "Trial of a partner", "expires_at": _rfc3339(time.time() + 2)},
            "busy": {
                "name": "Data Sync Script",
                "description": "Copies orders every night",
                "scopes": ["orders:read", "orders:write"],
                "expires_at": soon,
            },
        }
        keys = {name: self.call("POST", "/keys", body) for name, body in made.items()}
        self.call("PATCH", f"/keys/{keys['inactive']['id']}", {"enabled": False, "reason": "not used"})
        self.call("DELETE", f"/keys/{keys['revoked']['id']}?reason=Found+in+a+public+gist")
        busy = keys["busy"]["id"]
        self.call("PATCH", f"/keys/{busy}", {"enabled": False, "reason": "seen in a log"})
        self.call("POST", f"/keys/{busy}/rotate", {"grace_seconds": 86_400})
        self.call("PATCH", f"/keys/{busy}", {"enabled": True, "scopes": ["orders:read"], "reason": "fixed"})
        expired = f"/keys/{keys['expired']['id']}?after={keys['expired']['position']}"
        until(lambda: self.call("GET", expired)["status"] == "expired")
        return keys

    def use(self) -> None:
        """Records a month of usage for one key."""
        now = int(time.time() * 1000)
        with connect(self.store_url) as store:
            usage = Usage(store)
            for back in range(30):
                for count, code in ((back * 37 % 23 + 4, "VALID"), (back % 7 // 5, "INSUFFICIENT_SCOPES")):
                    for _ in range(count * 10):
                        usage.note((self.keys["busy"]["id"], code, now - back * DAY_MS))
            usage.flush()

    def tell_of_a_fault(self) -> None:
        """Records a failed integrity check in the ledger, and puts a forged job in the queue."""
        finding = AuditFinding(
            kind="changed",
            count=1,
            position=7,
            detail="not what its record and the chain say: record, entry_hash",
        )
        payload = AuditChecked(entries=31, checkpoints=2, position=31, findings=(finding,))
        with self.service.components() as components:
            who = operator("default")
            components.shared.journal.record(
                payload, subject=CHECKS, workspace="default", actor=who.actor, request=request()
            )
            queue = Queue(QUEUE, connection=components.shared.store, serializer=JSONSerializer)
            queue.enqueue("os.mkdir", "/tmp/forged")  # noqa: S108  # nobody makes it
            until(lambda: components.of(AuditComponents).status.failures.newest(1))

    @property
    def store_url(self) -> str:
        """The URL of the store that `up` runs."""
        return EmbeddedServer.in_directory(self.service.data_dir).url

    def pages(self) -> Iterator[str]:
        """Yields the URL of each page that supports GET."""
        for rule in application().url_map.iter_rules():
            if "GET" not in (rule.methods or set()) or rule.rule.startswith(("/static", "/v1/")):
                continue
            if rule.rule not in NOT_PAGES:
                busy = self.keys["busy"]["id"]
                query = QUERIES.get(rule.rule, "").replace("<key_id>", busy)
                yield rule.rule.replace("<key_id>", busy) + query


class Visit:
    """One user's browser with one width and colour scheme."""

    def __init__(self, scene: Scene, context: BrowserContext, folder: Path) -> None:
        self.scene = scene
        self.page: Page = context.new_page()
        self.folder = folder

    def sign_in(self, name: str) -> None:
        """Signs in with an account."""
        self.page.goto("/sign-in")
        self.page.get_by_label("E-mail").fill(f"{name}@example.org")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/keys")

    def go(self, path: str) -> None:
        """Opens a page."""
        self.page.goto(path)

    def key(self, name: str, rest: str = "") -> None:
        """Opens a key's page."""
        self.go(f"/keys/{self.scene.keys[name]['id']}{rest}")

    def shoot(self, name: str, *, whole: bool = True) -> None:
        """Takes a screenshot of the whole page, or only of the window, as for a dialog."""
        self.page.mouse.move(0, 0)
        if whole:
            self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=self.folder / f"{name}.png", full_page=whole, animations="disabled")

    def press(self, name: str) -> None:
        """Clicks a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def create(self, name: str) -> None:
        """Creates a key, which opens the modal."""
        self.go("/keys/new")
        self.page.get_by_label("Enter Key Name").fill(name)
        self.page.get_by_label("Description").fill("Copies orders every night")
        self.press("Create")
        expect(self.page.get_by_role("dialog")).to_be_visible()


def signing_in(visit: Visit) -> None:
    """Pages for a visitor who isn't signed in."""
    visit.go("/sign-in")
    visit.page.get_by_label("E-mail").fill("dev@example.org")
    visit.page.get_by_label("Password").fill("not the password")
    visit.press("Sign in")
    visit.shoot("sign-in-failed")
    visit.go("/nowhere")
    visit.shoot("error-404-stranger")


def beginning(visit: Visit) -> None:
    """The key list of an empty workspace."""
    visit.sign_in("new")
    visit.shoot("keys-none")


def reading(visit: Visit) -> None:
    """Pages for an auditor, who can't change anything."""
    visit.sign_in("auditor")
    visit.shoot("keys-auditor")
    visit.key("busy")
    visit.shoot("key-auditor")
    visit.go("/audit/lookup")
    visit.page.get_by_label("Full key, as you found it").fill(visit.scene.keys["plain"]["api_key"])
    visit.press("Look up")
    visit.page.wait_for_load_state()
    visit.shoot("lookup-auditor")
    visit.go("/keys/new")
    visit.shoot("error-403")


def listing(visit: Visit) -> None:
    """The key list in all its states, and error pages."""
    visit.sign_in("olga")
    visit.go("/keys?status=inactive")
    visit.shoot("keys-narrowed")
    visit.go("/keys?search=nothing-like-it")
    visit.shoot("keys-no-match")
    visit.go("/keys")
    visit.page.get_by_role("switch", name="Status of My Web App Integration").click()
    visit.shoot("keys-switching-off", whole=False)
    visit.page.keyboard.press("Escape")
    visit.page.route("**/status", lambda route: route.abort())
    visit.page.get_by_role("switch", name="Status of Old Importer").click()
    expect(visit.page.get_by_text("is still disabled")).to_be_visible()
    visit.shoot("keys-switch-failed")
    visit.page.unroute("**/status")
    with stopped(visit.scene.service.pid("projector")):
        made = visit.scene.call("POST", "/keys", {"name": "Came just now"})
        visit.go(f"/keys?after={made['position']}")
        visit.shoot("keys-behind")
    visit.go("/keys/000000000000")
    visit.shoot("error-404")
    with stopped(visit.scene.service.pid("valkey-server")):
        visit.go("/keys")
        visit.shoot("error-503")
    until(visit.scene.service.is_ready, what="readiness")


def creating(visit: Visit) -> None:
    """The form for a new key and its modal."""
    visit.go("/keys/new")
    page = visit.page
    page.get_by_text("More: expiry and scopes").click()
    page.get_by_role("button", name="90 days").click()
    page.get_by_label("Scopes").fill("orders:read")
    visit.shoot("create-more")
    page.get_by_label("Description").fill("d" * 501)
    page.get_by_label("Expires (UTC)").fill("2001-01-01T00:00")
    visit.press("Create")
    visit.shoot("create-errors")
    page.get_by_label("Enter Key Name").fill("Data Sync Script")
    page.get_by_label("Description").fill("Copies orders every night")
    visit.press("Never")
    page.get_by_label("Scopes").fill("keyledger:unheard-of")
    visit.press("Create")
    page.wait_for_load_state()
    visit.shoot("create-refused")
    visit.create("Data Sync Script")
    expect(page.get_by_role("button", name="Copy API key")).to_be_visible()  # its script has run
    visit.shoot("modal", whole=False)
    page.get_by_text("How to use it").click()
    visit.shoot("modal-use", whole=False)
    page.get_by_text("How to use it").click()
    page.keyboard.press("Escape")
    visit.shoot("modal-asks", whole=False)
    page.keyboard.press("Escape")
    visit.press("Copy API key")
    expect(page.get_by_text("Copied")).to_be_visible()
    visit.press("Show API key")
    visit.shoot("modal-copied-and-shown", whole=False)
    visit.create("Backup of the wiki")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    visit.press("Copy API key")
    visit.shoot("modal-copy-failed", whole=False)


def repeating(visit: Visit) -> None:
    """Forms that are submitted twice."""
    page = visit.page
    visit.go("/keys/new")
    form = page.locator("form[data-check]")
    page.get_by_label("Enter Key Name").fill("Nightly export")
    fields = form.evaluate("form => Object.fromEntries(new FormData(form))")
    for _ in range(2):
        page.request.post("/keys/new", form=fields, max_redirects=0)
    visit.go("/keys")
    visit.shoot("keys-shown-already")
    visit.go("/keys/new")
    page.get_by_label("Enter Key Name").fill("Nightly import")
    page.locator("[name=idempotency_key]").evaluate(
        "(field, old) => { field.value = old }", fields["idempotency_key"]
    )
    visit.press("Create")
    expect(page.get_by_role("alert")).to_be_visible()
    visit.shoot("create-again")
    visit.go("/keys/new")
    form.evaluate("form => { form.dataset.sent = '' }")
    visit.shoot("create-busy")
    visit.key("plain", "/rotate")
    visit.press("Rotate")
    expect(page.get_by_role("button", name="Copy API key")).to_be_visible()
    visit.shoot("modal-rotated", whole=False)


def looking(visit: Visit) -> None:
    """The pages of one key."""
    page = visit.page
    for name in ("revoked", "expired", "long", "rtl"):
        visit.key(name)
        visit.shoot(f"key-{name}")
    visit.key("busy")
    page.get_by_text("Day by day").click()
    visit.shoot("key-use-day-by-day")
    page.get_by_role("link", name="View at this point").nth(1).click()
    visit.shoot("key-past")
    visit.key("busy", "?at=2001-01-01T00:00")
    visit.shoot("key-no-such-moment")
    visit.key("busy", "/change")
    page.get_by_label("Scopes").fill("NO SCOPE")
    page.get_by_label("Enter Key Name").fill("Another name")
    visit.press("Save")
    visit.shoot("key-change-refused")
    visit.key("rtl", "/change")
    visit.scene.call("PATCH", f"/keys/{visit.scene.keys['rtl']['id']}", {"description": "تغيّر"})
    page.get_by_label("Enter Key Name").fill("Front end")
    visit.press("Save")
    expect(page.get_by_role("alert")).to_be_visible()
    visit.shoot("key-changed-meanwhile")


def auditing(visit: Visit) -> None:
    """The audit log in all its states."""
    visit.go("/audit")
    expect(visit.page.locator("#activity svg.chart")).to_be_visible()
    visit.page.locator("summary").filter(has_text="Key changed").first.click()
    visit.shoot("audit-entry")
    visit.page.locator("summary").filter(has_text="Key, actor, event").click()
    visit.page.get_by_text("Export", exact=True).click()
    visit.page.locator("summary").filter(has_text="As a table").click()
    visit.shoot("audit-filter", whole=False)
    visit.go("/audit/timeline?of=account:dev@example.org")
    visit.shoot("audit-timeline-account")
    visit.go("/audit/timeline?of=nobody")
    visit.shoot("audit-timeline-none")
    visit.go("/audit/activity?q=nothing-like-it")
    visit.shoot("audit-activity-none")
    visit.go("/audit?since=nonsense")
    visit.shoot("audit-refused")
    visit.go("/audit?q=nothing-like-it")
    visit.shoot("audit-no-match")


def checking(visit: Visit) -> None:
    """The audit log's integrity page: never checked, intact, and damaged while jobs fail."""
    service = visit.scene.service
    visit.go("/audit/integrity")
    visit.shoot("integrity-unchecked")
    assert service.run("audit", "checkpoint").returncode == 0
    assert service.run("audit", "check").returncode == 0
    visit.go("/audit/integrity")
    visit.shoot("integrity-sound")
    visit.scene.tell_of_a_fault()
    visit.go("/audit/integrity")
    visit.shoot("integrity-not-sound")
    visit.go("/audit")
    visit.shoot("audit-not-sound")


def inquiring(visit: Visit) -> None:
    """The audit log's forensics pages for keys."""
    page, keys = visit.page, visit.scene.keys
    born, off = (
        event["position"]
        for event in visit.scene.call("GET", f"/keys/{keys['busy']['id']}/history")["events"][:2]
    )
    visit.go(f"/audit/verdict?key_id={keys['busy']['id']}&at={born}&scopes=orders:read")
    visit.shoot("verdict-yes")
    visit.go(f"/audit/verdict?key_id={keys['busy']['id']}&at={off}")
    visit.shoot("verdict-no")
    visit.go(f"/audit/verdict?key_id={keys['busy']['id']}&at=1")
    visit.shoot("verdict-not-yet-created")
    visit.go("/audit/verdict?key_id=000000000000&at=nonsense")
    visit.shoot("verdict-refused")
    tokens = {name: keys[name]["api_key"] for name in ("busy", "revoked", "inactive", "long")}
    tokens |= {"caller": visit.scene.bearer["Authorization"].split()[1], "refused": tokens["busy"][:-1]}
    for name, token in tokens.items():
        visit.go("/audit/lookup")
        page.get_by_label("Full key, as you found it").fill(token)
        visit.press("Look up")
        page.wait_for_load_state()
        visit.shoot(f"lookup-{name}")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Suspends a process temporarily."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def without_script(scene: Scene, browser: Browser, folder: Path, options: Json) -> None:
    """The main flow without JavaScript."""
    context = browser.new_context(**options, java_script_enabled=False)
    visit = Visit(scene, context, folder)
    visit.sign_in("dev")
    visit.create("Without script")
    visit.shoot("no-script-modal", whole=False)
    visit.go("/keys")
    visit.page.get_by_role("switch", name="Status of Data Sync Script").first.click()
    visit.shoot("no-script-switch-off")
    context.close()


def every_page(visit: Visit) -> None:
    """Every page as an owner sees it."""
    for path in visit.scene.pages():
        answer = visit.page.goto(path)
        assert answer, path
        assert answer.ok, f"{path}: {answer.status}"
        name = (
            path.partition("?")[0].strip("/").replace(visit.scene.keys["busy"]["id"], "id").replace("/", "-")
        )
        visit.shoot(f"page-{name}")


STATES: tuple[Callable[[Visit], None], ...] = (
    listing,
    creating,
    repeating,
    looking,
    auditing,
    checking,
    inquiring,
    every_page,
)


def shoot_all(scene: Scene, browser: Browser, folder: Path, options: Json) -> None:
    """Takes screenshots of every state with one width and colour scheme."""
    for states in ((signing_in,), (beginning,), (reading,), STATES):
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        visit = Visit(scene, context, folder)
        for state in states:
            state(visit)
        context.close()
    without_script(scene, browser, folder, options)
    print(f"{folder}: {len([*folder.iterdir()])} pictures")


def main() -> None:
    """Uses a new Keyledger for each width and colour scheme, so that all start with the same data."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with sync_playwright() as playwright:
        browser = launched(playwright)
        for (width, height), scheme in itertools.product(WIDTHS.items(), SCHEMES):
            folder = FOLDER / f"{width}-{scheme}"
            folder.mkdir(parents=True)
            with running() as service:
                options = {
                    "base_url": service.url,
                    "viewport": {"width": width, "height": height},
                    "color_scheme": scheme,
                    "permissions": ["clipboard-read", "clipboard-write"],
                }
                shoot_all(Scene(service), browser, folder, options)
        browser.close()


@contextmanager
def running() -> Iterator[Service]:
    """Runs a temporary Keyledger."""
    with tempfile.TemporaryDirectory(prefix="kl-") as directory:
        service = Service(Path(directory) / "data")
        service.start()
        try:
            yield service
        except BaseException:
            print(service.output)
            raise
        finally:
            service.stop()


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


if __name__ == "__main__":
    main()
