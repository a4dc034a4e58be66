"""The list of filters: whatever is in it can be searched, asked of the API, and is recorded of an export."""

import subprocess
import sys

import pytest

from services.audit.log.filters import FILTERS, Filters
from services.audit.web.schemas import FiltersSchema, QuerySchema, TypedFiltersSchema

# In a process of its own: the schemas are made from the list when they are imported.
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


def test_a_filter_that_is_added_to_the_list_is_searched_by_the_api_the_form_and_exports() -> None:
    ran = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("schema", [FiltersSchema(), QuerySchema(), TypedFiltersSchema()])
def test_the_api_and_the_form_take_every_filter(schema: FiltersSchema) -> None:
    assert {each.name for each in FILTERS} == schema.fields.keys() - {"limit", "cursor"}


@pytest.mark.parametrize("given", [{"color": "red"}, {"since": "2026-11-23"}, {"actor": 1}])
def test_a_filter_that_would_be_ignored_is_refused(given: dict[str, str | int]) -> None:
    with pytest.raises(TypeError):
        Filters(workspace="default", **given)
