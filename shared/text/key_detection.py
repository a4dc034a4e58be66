"""Detects API keys in text: ours, and those of other services. Pure."""

import html
import re
import unicodedata
import zlib
from collections.abc import Iterator
from urllib.parse import unquote

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 50  # characters of a key behind its prefix
CHECKSUM_LENGTH = 6
PREFIX_LENGTH = 16
REMOVED = "[API key]"

# A run of letters and digits that is longer than what people type, and than an id or a date.
_LONG = re.compile(r"[0-9A-Za-z]{26}")
# The least part of a key that is refused. The ID is public, and the checksum tells 32 bits of the secret: the
# last 19 characters leave 81 bits to guess.
_LEAST = 20
_RUN = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{_LEAST},}}")
_PREFIX_END = re.compile(r"[0-9A-Za-z]_")
_HEX = re.compile(r"(?:0[Xx])?[0-9A-Fa-f]+")
_HASH_LENGTHS = frozenset({64, 96, 128})  # of SHA-2 in hexadecimal digits
# What runs consist of that are not random: hashes, words and abbreviations, numbers.
_WORD = re.compile(r"[0-9a-f]{16,}|[A-Z]?[a-z]{3,}|[A-Z]{4,}|[0-9]{4,}")
# Characters outside words. Of 10,000 secrets with their checksum 2 have fewer, of 1,000 long identifiers in
# programs 996.
_RANDOM, _RANDOM_WITHOUT_DIGITS = 9, 12
_RANDOM_SHARE = 4  # at least one character in so many
_RANDOM_SPREAD = 26  # of 44: more than in a few short ids one after another

_BODY = re.compile(rb"(?=_([0-9A-Za-z]{%d}))" % BODY_LENGTH)
_CUT_BODY = re.compile(rb"(?=(?:_|kl)([0-9A-Za-z]{%d}))" % (BODY_LENGTH - CHECKSUM_LENGTH))
_CHECKSUM_START = re.compile(rb"[0-4]")  # 5 * 62**5 is more than CRC-32 gives
_CHECKSUM_TOP = 62 ** (CHECKSUM_LENGTH - 1)
_NOT_OF_KEYS = bytes(set(range(256)) - set(ALPHABET.encode()) - set(b"_"))
_DEFAULT_PREFIX = zlib.crc32(b"kl_")

_SUSPECT = re.compile(rf"[_%\\&=]|[0-9A-Za-z]{{{_LEAST}}}")
_BYTE = re.compile(r"(?:\\(?:x|u00|U000000|u\{0*)|=)([0-9A-Fa-f]{2})\}?")
_HEX_TEXT = re.compile(rf"(?:[2-7][0-9A-Fa-f]){{{_LEAST},}}")
_CHUNK = re.compile(r"[^\s\"']+")
_SHOWN = 4  # characters of a key that its hint shows as well
_MAX_ENCODED = 4  # times


def resembles_key(text: str) -> bool:
    """Whether a text may contain a key or part of one, and so must not appear in a URL or a response."""
    return holds_key(text) or any(map(_LONG.search, _readings(text)))


def holds_key(text: str) -> bool:
    """Whether a text holds a key, or so much of one that the rest could be guessed, and so must not be kept.

    It is found also within other text, encoded, written in other forms of the same characters, and spread by
    whatever is not part of a key.
    """
    if len(text) < _LEAST:
        return False
    if len(text) < BODY_LENGTH and text.isascii() and not _SUSPECT.search(text):
        return False  # most texts are done with
    if _HEX.fullmatch(text) and not _HEX_TEXT.search(text):
        return False  # a hash
    return any(_key_in(reading) or holds_spread_key(reading) for reading in _readings(text))


def holds_spread_key(text: str) -> bool:
    """Whether a key is left when what is never part of one is dropped.

    It is known by its checksum, or as random characters behind a prefix.
    """
    joined = text.encode("ascii", "ignore").translate(None, _NOT_OF_KEYS)
    if len(joined) < BODY_LENGTH - CHECKSUM_LENGTH:
        return False
    if any(_outside_words(found[1].decode()) >= _RANDOM_SPREAD for found in _CUT_BODY.finditer(joined)):
        return True
    return _has_checksum(joined.replace(b"_", b"")) or any(
        _has_checksum_behind_prefix(joined, body.start()) for body in _BODY.finditer(joined)
    )


def refusal(what: str, text: str) -> str:
    """Why a text that holds a key is refused, and what to do; `what` names the text."""
    found = _key_in(text)
    part = f" (“{found[0][:_SHOWN]}…”, {len(found[0])} letters and digits)" if found else ""
    return (
        f"{what} contains what looks like an API key or part of one{part}. Remove it: keys are never stored. "
        f"If it is something else, shorten it to fewer than {_LEAST} letters and digits."
    )


def redacted(text: str) -> str:
    """The text with each key shortened to its partial form."""
    text = _RUN.sub(_redacted_run, text)
    return _CHUNK.sub(lambda chunk: REMOVED if holds_key(chunk[0]) else chunk[0], text)


def without_keys(text: str) -> str:
    """The text in a form that may be stored: redacted, or removed if redacting isn't enough."""
    if not holds_key(text):
        return text
    shown = redacted(text)
    return REMOVED if holds_key(shown) else shown


def checksum(payload: str) -> str:
    """CRC-32 of the text in base62, 6 characters."""
    return base62(zlib.crc32(payload.encode()), CHECKSUM_LENGTH)


def base62(number: int, width: int) -> str:
    """A number in base62, padded to this length."""
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _key_in(text: str) -> re.Match[str] | None:
    """The first run of letters and digits that is a key or part of one."""
    return next(filter(_is_key, _RUN.finditer(text)), None)


def _is_key(found: re.Match[str]) -> bool:
    """Whether a run of letters and digits is part of a key: whole behind a prefix, or random."""
    run, start = found[0], found.start()
    is_hex = _HEX.fullmatch(run) is not None
    if len(run) >= BODY_LENGTH and start >= 2 and _PREFIX_END.match(found.string, start - 2):
        return not (is_hex and len(run) in _HASH_LENGTHS)
    return not is_hex and _is_random(run)


def _is_random(run: str) -> bool:
    """Whether letters of both cases and digits alternate as in no name that people make of words."""
    if run.islower() or run.isupper() or run.isdigit():
        return False
    outside = _outside_words(run)
    if outside * _RANDOM_SHARE <= len(run):
        return False
    return outside >= _RANDOM_WITHOUT_DIGITS or (outside >= _RANDOM and not run.isalpha())


def _outside_words(run: str) -> int:
    return len(run) - sum(len(word) for word in _WORD.findall(run))


def _redacted_run(found: re.Match[str]) -> str:
    if not _is_key(found):
        return found[0]
    start = found.start()
    return f"{found[0][:_SHOWN]}…" if start and found.string[start - 1] == "_" else REMOVED


def _has_checksum(joined: bytes) -> bool:
    """Whether letters and digits hold a key under the default prefix, with or without it."""
    of_payload = BODY_LENGTH - CHECKSUM_LENGTH
    for first in _CHECKSUM_START.finditer(joined, of_payload):
        end = first.start()
        number = zlib.crc32(joined[end - of_payload : end], _DEFAULT_PREFIX)
        if number // _CHECKSUM_TOP != int(first[0]):
            continue  # as most do not fit already here
        if joined[end : end + CHECKSUM_LENGTH] == base62(number, CHECKSUM_LENGTH).encode():
            return True
    return False


def _has_checksum_behind_prefix(joined: bytes, prefix_end: int) -> bool:
    end = prefix_end + 1 + BODY_LENGTH
    payload_end = end - CHECKSUM_LENGTH
    stated = 0
    for digit in joined[payload_end:end].decode():
        stated = stated * len(ALPHABET) + ALPHABET.index(digit)
    return any(
        zlib.crc32(joined[start:payload_end]) == stated
        for start in range(max(prefix_end - PREFIX_LENGTH, 0), prefix_end)
    )


def _readings(text: str) -> Iterator[str]:
    """The text in plain characters without the invisible, and what is encoded in it decoded, step by step."""
    for _ in range(_MAX_ENCODED + 1):
        if not text.isascii():
            text = unicodedata.normalize("NFKD", text).translate(_VISIBLE)
        yield text
        decoded = _decoded(text)
        if decoded == text:
            return
        text = decoded


def _decoded(text: str) -> str:
    """The text with the encodings of URLs, HTML, source code, e-mail and hexadecimal digits decoded once."""
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text or "=" in text:
        text = _BYTE.sub(r"%\1", text)
    if "%" in text:
        text = unquote(text)
    return _HEX_TEXT.sub(lambda found: bytes.fromhex(found[0]).decode(), text)


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
