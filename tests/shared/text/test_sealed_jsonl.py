"""Files that end with a trailer."""

from hashlib import sha256

import pytest

from shared.text.sealed_jsonl import (
    DamagedFileError,
    LineError,
    SealedReader,
    read_tagged_line,
    sealed,
    tagged_line,
)

LINES = [b'{"n":1}\n', b'{"n":2}\n']


def trailer(digest: bytes) -> bytes:
    return tagged_line("trailer", digest.hex())


WHOLE = [*sealed(LINES, trailer)]


def verified(file: list[bytes]) -> list[bytes]:
    reader = SealedReader(file, b'{"trailer"')
    lines = [*reader]
    reader.verify(trailer(reader.sha256))
    return lines


def test_the_trailer_has_the_hash_of_all_lines_before_it() -> None:
    assert [*LINES, trailer(sha256(b"".join(LINES)).digest())] == WHOLE
    assert verified(WHOLE) == LINES


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (WHOLE[:2], "It ends after 2 lines, without a trailer."),
        ([*WHOLE[:2], WHOLE[2][:-1]], "It's cut off in line 3."),
        ([WHOLE[0], *WHOLE[2:]], "Its trailer doesn't match the 1 lines before it."),
        ([*WHOLE, WHOLE[0]], "It has lines after its trailer."),
        ([], "It ends after 0 lines, without a trailer."),
    ],
)
def test_a_damaged_file_is_rejected(file: list[bytes], message: str) -> None:
    with pytest.raises(DamagedFileError, match=f"^{message}$"):
        verified(file)


@pytest.mark.parametrize("line", [b"", b"[]\n", b'{"other":"x"}\n', b'{"name":1}\n', b"\xff", b"[" * 50_000])
def test_a_line_with_another_tag_or_type_is_rejected(line: bytes) -> None:
    with pytest.raises(LineError):
        read_tagged_line("name", line, str)
    assert read_tagged_line("name", tagged_line("name", "x"), str) == "x"
