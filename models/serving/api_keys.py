"""API keys: who may ask for scores. A file holds their hashes, never the keys.

A line is `name:sha256 of the key in hex`; empty lines and lines that begin with `#` are passed over. A key is 256
random bits, so a plain hash of it cannot be searched, and no salt or slow hash is needed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Final

from models.errors import ReleaseError

_KEEP_SECONDS: Final = 1.0  # a key that was taken back is refused after this
_LINE: Final = re.compile(r"[^:\s][^:]{0,63}:[0-9a-f]{64}")
_PREFIX: Final = "bearer "


class ApiKeys:
    """The keys of a file, read again when it changes.

    Args:
        path: the file.
        own_key: the platform's own, by which it asks a release for its golden rows.

    Raises:
        ReleaseError: the file cannot be read or has a line that is no key's.
    """

    def __init__(self, path: Path, own_key: str) -> None:
        self._path = path
        self._own = hashlib.sha256(own_key.encode()).digest()
        self._hashes = [self._own, *read_hashes(path).values()]
        self._read_at = time.monotonic()

    def admit(self, authorization: str | None) -> bool:
        """Whether a header `Authorization: Bearer KEY` carries one of the keys.

        Every hash is compared, each in constant time: how long it takes says nothing about a key. A file that
        cannot be read any more lets nobody in but the platform.
        """
        if time.monotonic() - self._read_at > _KEEP_SECONDS:
            try:
                self._hashes = [self._own, *read_hashes(self._path).values()]
            except ReleaseError:
                self._hashes = [self._own]
            self._read_at = time.monotonic()
        given = authorization or ""
        known = given[: len(_PREFIX)].lower() == _PREFIX
        digest = hashlib.sha256(given[len(_PREFIX) :].strip().encode(errors="replace")).digest()
        found = False
        for one in self._hashes:
            found |= hmac.compare_digest(one, digest)
        return known and found


def read_hashes(path: Path) -> dict[str, bytes]:
    """Name -> sha256 of its key.

    Raises:
        ReleaseError: see `ApiKeys`; the line is named by its number, not shown.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text"
        raise ReleaseError(f"cannot read the API keys {path}: {why}. `make api-key NAME=name` writes the file; or "
                           "unset CHURN_API_KEYS") from None
    hashes = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().rpartition(":")
        if name in hashes or not _LINE.fullmatch(line.strip()):
            raise ReleaseError(f"cannot use the API keys {path}: line {number} is not name:sha256 of a name of "
                               "its own. `make api-key NAME=name` writes such lines")
        hashes[name] = bytes.fromhex(digest)
    return hashes


def platform_key(customer_key: bytes) -> str:
    """The platform's own API key: both it and its releases hold the customer key, from which it follows."""
    return hmac.new(customer_key, b"api key of the platform", hashlib.sha256).hexdigest()
