import random

from hypothesis import given
from hypothesis import strategies as st

from services.keys.key_material import mint
from shared.tokens import holds_key, resembles_key


@given(st.text(max_size=30), st.text(max_size=30), st.integers(), st.integers(0, 5))
def test_a_key_is_found_wherever_it_stands_in_a_text_also_if_its_end_is_missing(
    before: str, after: str, seed: int, missing: int
) -> None:
    token = mint("kl", "default", random.Random(seed).randrange).reveal()
    text = f"{before}{token[: len(token) - missing]}{after}"
    assert holds_key(text)
    assert resembles_key(text)
    assert resembles_key(f"{before}{token[5:-5]}{after}")


def test_what_people_write_is_no_key() -> None:
    written = "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b of data_sync_for_internationalization"
    for text in ("", "Data Sync Script", written, "kl_3fA9…x7Qz"):
        assert not holds_key(text)
    assert not resembles_key("3fA9bQ27LmZ0 2026-11-23T18:59:21.123Z internationalization")
