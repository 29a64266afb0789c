"""Signatures of what is sent, as Standard Webhooks 1.0 wants them (standardwebhooks.com)."""

import base64
import hmac
import secrets
from typing import Final

_PREFIX: Final = "whsec_"


def new_secret() -> str:
    """Return a fresh secret of 256 bits in the form that receivers' libraries read."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signed_headers(secret: str, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers that say which message this is, when it was sent, and that we sent it."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    digest = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), at, body), "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
