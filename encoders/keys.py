r"""The key of an embedding: 16 bytes that name a model's vector of a text.

``key = sha256(fingerprint + "\n" + text)[:16]``, both in UTF-8. It is what any language can compute in a line, and two texts
that meet in 16 bytes are not expected before 10^19 texts.
"""

from __future__ import annotations

import hashlib

KEY_BYTES = 16


def key_of(fingerprint: str, text: str) -> bytes:
    """The key of a text's vector by the model of that fingerprint (`encoders.folder.fingerprint`).

    >>> key_of("f0", "two red shoes").hex()
    '06437505f8045c753133411a113c0a7c'
    >>> key_of("f1", "two red shoes") == key_of("f0", "two red shoes")
    False
    """
    return hashlib.sha256(f"{fingerprint}\n{text}".encode()).digest()[:KEY_BYTES]
