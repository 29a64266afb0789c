"""Repeated reads: an ETag, and 304 without a body for a client that has that state already.

Browsers may keep these answers but must ask each time (``no-cache``), so a front end that polls sends
``If-None-Match`` without doing anything for it.
"""

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.web.rendering import encode, json_bytes

_ANY = "*"
KEPT = "private, no-cache"


def conditional(
    request: web.Request, document: Any, *, state: Any = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a document, or bytes, or 304; ``state`` is what of it counts as a change, if not all."""
    body = document if isinstance(document, bytes) else encode(document).encode()
    tag = hashlib.sha256(body if state is None else encode(state).encode()).hexdigest()[:24]
    named = {"Cache-Control": KEPT, **(headers or {})}
    wanted = request.if_none_match or ()
    if any(given.value in (tag, _ANY) for given in wanted):
        response = web.Response(status=HTTPStatus.NOT_MODIFIED, headers=named)
    else:
        response = json_bytes(body, headers=named)
    # Weak: the same state may be written at different times (issued_at).
    response.headers["ETag"] = f'{"" if state is None else "W/"}"{tag}"'
    return response
