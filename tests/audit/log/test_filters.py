"""The list of filters: each one works in the search and the API, and is recorded for exports."""

import subprocess
import sys

import pytest

from services.audit.log.filters import FILTERS, Filters
from services.audit.web.schemas import FiltersSchema, QuerySchema, TypedFiltersSchema

# Runs in a separate process, because the schemas are built from the list on import.
ADDED = """
from services.audit.log import filters
from services.audit.log.terms import term_of

def terms(label):
    return ((term_of("label", label),),)

added = filters.Filter(
    name="label", label="Label", description="What is called so.", example="ann", terms=terms
)
filters.FILTERS = (*filters.FILTERS, added)

from services.audit.web.schemas import FiltersSchema, QuerySchema, TypedFiltersSchema

given = {"label": "ann"}
for schema in (FiltersSchema(), TypedFiltersSchema()):
    assert schema.load(given)["label"] == "ann"
assert QuerySchema().load(given)["criteria"]["label"] == "ann"
assert FiltersSchema().fields["label"].metadata["description"] == "What is called so."
of = filters.Filters(workspace="default", **FiltersSchema().load(given))
assert of.wanted == ((term_of("workspace", "default"),), (term_of("label", "ann"),))
assert of.as_written() == given
"""


def test_a_filter_added_to_the_list_works_in_the_api_the_form_and_exports() -> None:
    ran = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("schema", [FiltersSchema(), QuerySchema(), TypedFiltersSchema()])
def test_the_api_and_the_form_accept_every_filter(schema: FiltersSchema) -> None:
    assert {each.name for each in FILTERS} == schema.fields.keys() - {"limit", "cursor"}


@pytest.mark.parametrize("given", [{"color": "red"}, {"since": "2026-11-23"}, {"actor": 1}])
def test_an_unknown_or_mistyped_filter_is_rejected(given: dict[str, str | int]) -> None:
    with pytest.raises(TypeError):
        Filters(workspace="default", **given)
