"""Under which names we are asked: none that a stranger has given to this host.

A web page may have its own name lead to this host (DNS rebinding): to the browser it is of one origin with
us, so it may send ``X-User-ID``, and it comes from an address that is trusted. What gives it away is Host: a
browser always names the port it asks at, which is ours, while the name of a public site stands without one.
"""

import logging
import re
from dataclasses import field
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web

from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.host_names import is_address
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.problems import HttpRefused

log = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]*))(?::(?P<port>[0-9]+))?")
_WEB = 80  # the port that browsers leave out


@record
class Names:
    """The names the operator lists; see ``admits``."""

    allowed: frozenset[str] = frozenset()
    throttle: LogThrottle = field(default_factory=LogThrottle)


NAMES = web.AppKey("names", Names)


def require_known(request: web.Request) -> None:
    """Refuse a request under a name that is not ours."""
    names = request.app[NAMES]
    listened = None if request.transport is None else request.transport.get_extra_info("sockname")
    if not isinstance(listened, tuple):  # a unix socket, which no browser reaches
        return
    given = request.headers.getall("Host", [""])
    if len(given) == 1 and admits(names.allowed, given[0].lower(), listened[1]):
        return
    if names.throttle.allows("unknown"):
        log.warning("a request for %s was refused: if that is us, name it in ALLOWED_HOSTS", given[0])
    raise HttpRefused(
        HTTPStatus.MISDIRECTED_REQUEST,
        "unknown_host",
        "unknown Host header; if this is the right server, add the name to ALLOWED_HOSTS",
    )


@lru_cache(maxsize=256)
def admits(allowed: frozenset[str], host: str, port: int) -> bool:
    """Say whether ``host`` may be us, listening on ``port``.

    Addresses and localhost lead nowhere else. Of other names those ``allowed``; if none are, those without
    a dot, which no stranger's DNS can give, and those that come without a port, as through a proxy.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found["address"] or found["name"]).removesuffix(".")
    if is_address(name) or name == "localhost" or name.endswith(".localhost"):
        return True
    if allowed:
        return name in allowed
    return "." not in name or (not found["port"] and port != _WEB)
