"""Bearer tokens: known by their hash, compared in constant time, counted while they speak.

A token is 256 random bits, so that a fast hash is enough: there is nothing to guess that a slow one would protect.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from serve.config import Token

ANYBODY = "anybody"


def new_token() -> tuple[str, str]:
    """Return a fresh token and its SHA-256; the configuration keeps the second, its owner the first."""
    token = secrets.token_urlsafe(32)
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """Return the token's SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_token(tokens: Sequence[Token], given: str) -> Token | None:
    """Return the token that `given` is. Every one is compared in constant time, the found one too."""
    digest = hash_token(given)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    return found


def bearer(header: str | None) -> str:
    """Return the token of an Authorization header, "" where there is none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
