"""What the demo's HTTP servers share: each listens on loopback, and serves pages of this machine alone."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from kosmo_billing_daemon.web.rendering import encode, json_bytes

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


async def listen(app: web.Application, host: str, port: int, **options: Any) -> web.AppRunner:
    """Serve until the runner's ``cleanup``; port 0 takes a free one, which is in its ``addresses``."""
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def is_local(address: str) -> bool:
    """Say whether the host of an address is a name of this machine."""
    try:
        return urlsplit(address).hostname in _LOOPBACK
    except ValueError:
        return False


def problem(status: HTTPStatus, code: str, detail: str, **more: object) -> web.Response:
    """Refuse in the manner of the API."""
    told = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        **more,
    }
    return json_bytes(encode(told).encode(), status=status, content_type="application/problem+json")
