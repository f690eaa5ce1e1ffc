"""Everything that must be secret and repeatable hangs on one key: pseudonyms, voices, the attacker's own voices.

Each use has a key of its own, derived by HMAC-SHA-256 from the job's, so that knowing a voice says nothing of a
pseudonym. The key itself never leaves the process that holds it: no log, no report, no file that outlives the run.
"""

import hashlib
import hmac

MINIMUM_KEY_BYTES = 16


def derive_key(key: bytes, purpose: str) -> bytes:
    """Return the 32-byte key for one purpose."""
    return hmac.digest(key, b"voxveil/" + purpose.encode(), hashlib.sha256)


def pseudonym(key: bytes, kind: str, identifier: str) -> str:
    """Return the keyed pseudonym of an identifier: 32 hexadecimal digits (128 bits of HMAC-SHA-256).

    `kind` ("utterance", "speaker") separates the two name spaces; equal identifiers get equal pseudonyms.
    """
    return hmac.new(derive_key(key, kind), identifier.encode(), hashlib.sha256).hexdigest()[:32]


def keyed_seed(key: bytes, purpose: str, identifier: str) -> int:
    """Return the seed (0 to 2**64 - 1) that the key gives an identifier for one purpose."""
    return int.from_bytes(hmac.digest(derive_key(key, purpose), identifier.encode(), hashlib.sha256)[:8], "big")
