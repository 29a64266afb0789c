"""Which user a request is from. The rule it keeps: every failure to say so gets the same answer."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_UNIX
from typing import assert_never
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.contract.encoding import ANY_UUID
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import AuthMode, Http, Jwt, Proxies
from kosmo_billing_daemon.web.problems import HttpRefused
from kosmo_billing_daemon.web.server.hosts import require_known

Identify = Callable[[web.Request], Awaitable[UserId]]
IDENTIFY: web.AppKey[Identify] = web.AppKey("identify")

HEADER = "X-User-ID"


async def identify(request: web.Request) -> UserId:
    """Return the user of a request; raises the one 401 if there is none."""
    return await request.app[IDENTIFY](request)


def for_mode(http: Http) -> Identify:
    """Choose how requests name their user; raises ``Misconfigured`` for one that is not complete."""
    match http.auth_mode:
        case AuthMode.HEADER:
            return by_header(http.trusted_proxies)
        case AuthMode.JWT:
            if http.jwt is None:
                raise Misconfigured(["AUTH_MODE=jwt not configured: set the JWT_… variables"])
            return by_token(http.jwt)
        case _:
            assert_never(http.auth_mode)


def by_header(trusted: Proxies) -> Identify:
    """Believe the header of trusted proxies, known by the address of the connection itself.

    A browser on a proxy's host has that address too, so what it asks for must be one of our names.
    """

    async def identified(request: web.Request) -> UserId:
        given = request.headers.getall(HEADER, [])
        if len(given) != 1:
            raise unknown(f"{HEADER} is missing" if not given else f"{HEADER} is there {len(given)} times")
        if not ANY_UUID.fullmatch(given[0]):
            raise unknown(f"{HEADER} is not a UUID")
        if not _is_trusted(request, trusted):
            raise unknown(f"{request.remote or 'the unix socket'} is not among TRUSTED_PROXIES")
        require_known(request)
        return UserId(UUID(given[0]))

    return identified


def by_token(settings: Jwt) -> Identify:
    """Believe a signed bearer token, and nothing else."""
    # Imported here because only this mode pays for it: cryptography is 9 MB in memory.
    from kosmo_billing_daemon.tokens.checking import Untrusted, checker  # noqa: PLC0415

    tokens = checker(settings)

    async def identified(request: web.Request) -> UserId:
        given = request.headers.getall("Authorization", [])
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise unknown("no bearer token", "Bearer")
        try:
            return UserId(await tokens.user(token.strip()))
        except Untrusted as error:
            raise unknown(error.message, "Bearer") from None

    return identified


def unknown(reason: str, scheme: str = HEADER) -> HttpRefused:
    """Make the one answer to all requests without a known user; only the log has the reason."""
    return HttpRefused(
        HTTPStatus.UNAUTHORIZED,
        "unauthenticated",
        "authentication required: missing or invalid credentials",
        headers={"WWW-Authenticate": scheme},
        reason=reason,
    )


def _is_trusted(request: web.Request, trusted: Proxies) -> bool:
    transport = request.transport
    if transport is None:
        return False
    listened = transport.get_extra_info("socket")
    if listened is not None and listened.family == AF_UNIX:
        return trusted.unix
    peer = transport.get_extra_info("peername")
    address = _address(peer[0]) if peer else None
    return address is not None and any(address in network for network in trusted.networks)


@lru_cache(256)  # proxies are few, and ask often
def _address(peer: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(peer)
    except ValueError:
        return None
    # A listener on :: sees IPv4 peers in IPv6 clothes.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
