# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of a few hundred kilobytes, without loading OpenSSL for it.

hashlib loads it at import, which costs a control node 4 MB of resident memory and some start-up.
The interpreter's own implementation is the one that hashlib itself falls back to; like ``random``
of the standard library, this takes it where it is, and hashlib's where it is not.
"""

from __future__ import annotations

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # CPython 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # CPython before that
    except ImportError:
        from hashlib import sha256

__all__ = ["sha256"]
