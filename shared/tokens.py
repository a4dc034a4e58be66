"""What a key looks like, wherever somebody may have typed one: ours, or another service's. Pure."""

import re
import unicodedata
import zlib
from urllib.parse import unquote

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 50  # characters of a key behind its prefix
CHECKSUM_LENGTH = 6
PREFIX_LENGTH = 16
REMOVED = "[API key]"

# A run of letters and digits that is longer than what people type, and than an id or a date.
_LONG = re.compile(r"[0-9A-Za-z]{26}")
# The most of a key: so much of it that the rest could be guessed.
_LEAST = 40
_RUN = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{_LEAST},}}")
_PREFIX_END = re.compile(r"[0-9A-Za-z]_")
_HEX = re.compile(r"(?:0[Xx])?[0-9A-Fa-f]+")
_BODY = re.compile(rf"(?=_([0-9A-Za-z]{{{BODY_LENGTH}}}))")
_NOT_OF_KEYS = re.compile(r"[^0-9A-Za-z_]+")
_CHUNK = re.compile(r"[^\s\"']+")
_HASH_LENGTHS = frozenset({64, 96, 128})  # of SHA-2 in hexadecimal digits
_LEAST_OF_EACH_CASE = 8
_SHOWN = 4  # characters of a key that its hint shows as well
_ENCODED_MOST = 4  # times


def resembles_key(text: str) -> bool:
    """Whether a text may hold a key or most of one, and so must come into no address and no answer."""
    plain = _plain(text)
    return _LONG.search(plain) is not None or _holds_spread_key(plain)


def holds_key(text: str) -> bool:
    """Whether a text holds a key, or one that lost an end, and so must not be kept.

    It is found also within other text, percent-encoded, written in other forms of the same characters, and
    spread by whatever is not part of a key.
    """
    if len(text) < _LEAST or _HEX.fullmatch(text):
        return False
    if text.isascii() and "_" not in text and "%" not in text and not _RUN.search(text):
        return False  # most texts are done with
    plain = _plain(text)
    return any(map(_is_key, _RUN.finditer(plain))) or _holds_spread_key(plain)


def redacted(text: str) -> str:
    """The text with no more of each key than every page shows of it."""
    text = _RUN.sub(_redacted_run, text)
    if "%" in text or not text.isascii():
        text = _CHUNK.sub(lambda chunk: REMOVED if holds_key(chunk[0]) else chunk[0], text)
    return text


def without_keys(text: str) -> str:
    """The text as it may be kept: redacted, or as a whole removed where that isn't enough."""
    if not holds_key(text):
        return text
    shown = redacted(text)
    return REMOVED if holds_key(shown) else shown


def checksum(payload: str) -> str:
    """CRC-32 of the text in base62, 6 characters."""
    return base62(zlib.crc32(payload.encode()), CHECKSUM_LENGTH)


def base62(number: int, width: int) -> str:
    """A number in so many letters and digits."""
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _is_key(found: re.Match[str]) -> bool:
    """Whether a run of letters and digits is most of a key: whole behind a prefix, or like random."""
    run, start = found[0], found.start()
    is_hex = _HEX.fullmatch(run) is not None
    if len(run) >= BODY_LENGTH and start >= 2 and _PREFIX_END.match(found.string, start - 2):
        return not (is_hex and len(run) in _HASH_LENGTHS)
    if is_hex:  # a hash, as people quote them
        return False
    upper, lower = (sum(map(of_case, run)) for of_case in (str.isupper, str.islower))
    if upper + lower < len(run):
        return upper > 0 and lower > 0
    return min(upper, lower) >= _LEAST_OF_EACH_CASE


def _redacted_run(found: re.Match[str]) -> str:
    if not _is_key(found):
        return found[0]
    start = found.start()
    return f"{found[0][:_SHOWN]}…" if start and found.string[start - 1] == "_" else REMOVED


def _holds_spread_key(text: str) -> bool:
    """Whether the text without all that is no part of a key has a whole one, by its checksum."""
    if "_" not in text or len(text) <= BODY_LENGTH:
        return False
    joined = _NOT_OF_KEYS.sub("", text)
    for body in _BODY.finditer(joined):
        end = body.start() + 1 + BODY_LENGTH
        payload_end = end - CHECKSUM_LENGTH
        for start in range(max(body.start() - PREFIX_LENGTH, 0), body.start()):
            if checksum(joined[start:payload_end]) == joined[payload_end:end]:
                return True
    return False


def _plain(text: str) -> str:
    """The text with what is percent-encoded decoded, in plain characters and without the invisible."""
    for _ in range(_ENCODED_MOST):
        if not text.isascii():
            text = unicodedata.normalize("NFKD", text).translate(_VISIBLE)
        if "%" not in text or (decoded := unquote(text)) == text:
            break
        text = decoded
    return text


class _Visible(dict[int, str | None]):
    """What stands for each character that was met: itself, or nothing for one that only changes others."""

    def __missing__(self, code: int) -> str | None:
        kind = unicodedata.category(chr(code))
        invisible = kind[0] == "M" or kind in _INVISIBLE or code in _FILLERS
        self[code] = None if invisible and chr(code) not in "\t\n\r" else chr(code)
        return self[code]


_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_FILLERS = frozenset({0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0})
_VISIBLE = _Visible()
