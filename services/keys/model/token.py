"""Key tokens: minting, parsing, checksum, digest and hint. Pure, and small enough to read in one sitting.

A token is `<prefix>_<id 12><secret 32><checksum 6>` in base62. The first two characters of the id are the
shard of its workspace; the checksum is the CRC-32 of all before it, so that a typing error is refused
without a look-up and a secret scanner can match `kl_[0-9A-Za-z]{50}`.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable

from shared.text.key_detection import ALPHABET, BODY_LENGTH, CHECKSUM_LENGTH, base62, checksum

_ID, _SHARD = 12, 2
_SECRET = BODY_LENGTH - _ID - CHECKSUM_LENGTH
_TOKEN = re.compile(rf"(?P<prefix>[0-9A-Za-z]+(?:_[0-9A-Za-z]+)*)_(?P<body>[0-9A-Za-z]{{{BODY_LENGTH}}})")
_KEY_ID = re.compile(rf"[0-9A-Za-z]{{{_ID}}}")


class ApiKey:
    """A whole token. Its repr is the hint, so that no log or traceback contains the secret."""

    __slots__ = ("_token", "id", "prefix")

    def __init__(self, token: str, prefix: str, key_id: str) -> None:
        self._token = token
        self.prefix = prefix
        self.id = key_id

    def __repr__(self) -> str:
        return f"<ApiKey {self.hint}>"

    @property
    def hint(self) -> str:
        """The partial view: prefix, the first 4 of the id, `…`, the last 4 of the checksum."""
        return f"{self.prefix}_{self.id[:4]}…{self._token[-4:]}"

    @property
    def digest(self) -> str:
        """SHA-256 of the whole token in hex: all that is stored. 190 random bits need no slow hash."""
        return hashlib.sha256(self._token.encode()).hexdigest()

    def matches(self, digest: str) -> bool:
        """Whether this is the token of that digest, in constant time."""
        return hmac.compare_digest(self.digest, digest)

    def reveal(self) -> str:
        """The token itself, for the one answer that shows it."""
        return self._token


class MalformedKeyError(Exception):
    """The text is no key of ours, or was mistyped."""


def mint(prefix: str, workspace: str, below: Callable[[int], int]) -> ApiKey:
    """A new key. `below(n)` draws an integer from 0 to n - 1, fit for secrets (`secrets.randbelow`)."""
    return mint_again(prefix, shard(workspace) + _drawn(_ID - _SHARD, below), below)


def mint_again(prefix: str, key_id: str, below: Callable[[int], int]) -> ApiKey:
    """The same with the id of a key that there is: another secret for it."""
    payload = f"{prefix}_{key_id}{_drawn(_SECRET, below)}"
    return ApiKey(payload + checksum(payload), prefix, key_id)


def parse(text: str) -> ApiKey:
    """The key in a text, under whatever prefix it was minted. Raises MalformedKeyError."""
    match = _TOKEN.fullmatch(text)
    if match is None or checksum(text[:-CHECKSUM_LENGTH]) != text[-CHECKSUM_LENGTH:]:
        raise MalformedKeyError
    return ApiKey(text, match["prefix"], match["body"][:_ID])


def is_key_id(text: str) -> bool:
    """Whether a text has the form of a key's id."""
    return _KEY_ID.fullmatch(text) is not None


def shard(workspace: str) -> str:
    """The first two characters of the ids of a workspace's keys."""
    return base62(zlib.crc32(workspace.encode()) % len(ALPHABET) ** _SHARD, _SHARD)


def _drawn(width: int, below: Callable[[int], int]) -> str:
    return base62(below(len(ALPHABET) ** width), width)
