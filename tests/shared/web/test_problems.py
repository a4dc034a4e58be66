"""The catalogue of problems contains exactly the codes that errors use."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from shared.web.errors.problems import PROBLEMS, Refusal, challenge
from shared.web.openapi.components import HEADERS
from tests.support.application import application

ROOT = Path(__file__).parents[3]


def codes_in_use() -> Iterator[str]:
    """The code of each call of `refuse`, whether it passes a code or a status."""
    for path in (file for folder in ("shared", "services") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refuse":
                named = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
                yield from (Refusal.of(name).code for name in named if isinstance(name, str | int))


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return application().test_client()


def test_every_error_code_is_in_the_catalogue_and_every_catalogued_code_is_used() -> None:
    by_status = {
        Refusal.of(status).code for status in (400, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503)
    }
    assert set(codes_in_use()) <= set(PROBLEMS)
    assert set(PROBLEMS) == {*codes_in_use(), *by_status}


def test_titles_are_distinct_and_codes_examples_and_headers_are_well_formed() -> None:
    assert len({problem.title for problem in PROBLEMS.values()}) == len(PROBLEMS)
    for code, problem in PROBLEMS.items():
        assert re.fullmatch("[a-z]+(_[a-z]+)*", code)
        assert problem.example.endswith(".")
        assert set(problem.headers) <= set(HEADERS)


def test_the_type_of_each_problem_links_to_its_section_on_the_docs_page(client: FlaskClient) -> None:
    page = client.get("/docs/problems")
    assert page.status_code == 200
    for code in PROBLEMS:
        page_url, _, section = Refusal.of(code).body("", "r")["type"].partition("#")
        assert page_url == "/docs/problems"
        assert page.text.count(f'id="{section}"') == 1


def test_the_openapi_document_has_an_example_of_each_problem_with_its_status(client: FlaskClient) -> None:
    responses = client.get("/openapi.json").get_json()["components"]["responses"]
    shown = {
        code: answer["value"]["status"]
        for response in responses.values()
        for code, answer in response["content"]["application/problem+json"]["examples"].items()
    }
    assert shown == {code: problem.status for code, problem in PROBLEMS.items()}


@pytest.mark.parametrize(
    ("status", "code"), [(418, "bad_request"), (502, "internal_error"), (404, "not_found")]
)
def test_a_status_without_its_own_code_gets_a_general_code(status: int, code: str) -> None:
    assert Refusal.of(status) == (code, status)


def test_the_errors_in_the_nginx_configuration_match_the_catalogue() -> None:
    written = re.findall(r"return (\d+) '(\{.*\})'", (ROOT / "deploy/nginx.conf").read_text())
    assert len(written) == 5
    for status, text in written:
        body = json.loads(text)
        body.setdefault("request_id", "")
        refusal = Refusal(body["code"], int(status))
        assert body == refusal.body(body["detail"], body["request_id"])


def test_an_error_outside_the_api_is_a_page_with_the_same_title(client: FlaskClient) -> None:
    call, page = client.get("/v1/nothing"), client.get("/nothing")
    assert call.get_json()["title"] == "Not found"
    assert '<h1 dir="auto">Not found</h1>' in page.text
    assert call.get_json()["detail"] in page.text


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "br", "identity, gzip", "GZIP", "unknown", "", "identity," * 3 + "gzip"]
)
@pytest.mark.parametrize("path", ["/sign-in", "/keys/new"])
def test_a_compressed_form_is_rejected_with_the_accepted_encoding(
    client: FlaskClient, path: str, coding: str
) -> None:
    answer = client.post(path, headers={"Content-Encoding": coding}, data={"name": "n"})
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert "Send it uncompressed." in answer.text


@pytest.mark.parametrize("authorization", [None, "Basic YTpi", "Bearer", "Bearer "])
@pytest.mark.parametrize(
    "path", ["/v1/keys", "/v1/keys/000000000000", "/v1/audit/entries", "/v1/forward-auth"]
)
def test_a_challenge_names_no_error_if_no_key_was_sent(
    client: FlaskClient, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.get(path, headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.get_json()["code"] == "missing_key"


def test_a_challenge_names_the_error_and_the_scopes() -> None:
    assert challenge("insufficient_scope", "a", "b") == {
        "WWW-Authenticate": 'Bearer error="insufficient_scope", scope="a b"'
    }
