"""Keys of the API: how one is made, and whose one is.

A key is 192 random bits. Nobody can guess that, however fast the hash is, so SHA-256 is enough to keep it: a slow
hash protects what people think up, and would only make each request slow here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from app.errors import BadInput
from app.registry import ApiKeyRecord, Registry

PREFIX = "sb-"
RANDOM_BYTES = 24
"""32 characters of URL-safe base64."""
HINT_CHARACTERS = 4
MOST_NAME_CHARACTERS = 64
ADVICE = "Make one with: main.py key add NAME"


def make_key(registry: Registry, name: str) -> str:
    """Make a key, keep its digest under a name, and return the key: it is never seen again. Blocks.

    Raises BadInput for a name that cannot be used, RegistryError for one that is taken.
    """
    chosen = name.strip()
    if not 1 <= len(chosen) <= MOST_NAME_CHARACTERS or not chosen.isprintable():
        raise BadInput(
            f"'{name}' cannot name an API key: 1 to {MOST_NAME_CHARACTERS} printable characters are needed.",
            "Name who or what will use it: laptop, grafana, …",
        )
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    registry.api_keys.add(name=chosen, digest=digest_of(key), hint=key[-HINT_CHARACTERS:])
    return key


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def owner_of(key: str, known: Iterable[ApiKeyRecord]) -> ApiKeyRecord | None:
    """The record whose key this is. Takes as long for a wrong key as for a right one."""
    digest, owner = digest_of(key), None
    for record in known:
        if hmac.compare_digest(record.digest, digest):
            owner = record
    return owner
