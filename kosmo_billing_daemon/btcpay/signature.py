"""The signature over a webhook body: proof that the sender knows the secret, over the exact bytes received.

The rule it keeps: the time a check takes tells nothing about secret, signature or which secret matched.
"""

import hmac
import re
from collections.abc import Sequence

HEADER = "BTCPay-Sig"

_FORM = re.compile(r"sha256=([0-9A-Fa-f]{64})")


def sign(raw: bytes, secret: bytes) -> str:
    """Return the header value BTCPay sends for ``raw``."""
    return f"sha256={hmac.digest(secret, raw, 'sha256').hex()}"


def verify(raw: bytes, header: str | None, secrets: Sequence[bytes]) -> bool:
    """Say whether one of ``secrets`` signed ``raw``; every one is tried. An empty secret never matches."""
    found = _FORM.fullmatch(header or "")
    if found is None:
        return False
    given = bytes.fromhex(found[1])
    matches = False
    for secret in secrets:
        matches |= hmac.compare_digest(hmac.digest(secret, raw, "sha256"), given) and bool(secret)
    return matches
