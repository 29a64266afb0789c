"""Which addresses a hook may reach.

The rule it keeps: the address is checked where the socket is made, so neither a name that changes its
address (DNS rebinding) nor a number in the URL gets around it. Private networks are for hooks that were
added for them; link-local addresses, where clouds keep their credentials, are for nobody.
"""

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from kosmo_billing_daemon.errors import Invalid

LONGEST_URL: Final = 2000

_PRIVATE: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10"))
)
_PRIVATE_6: Final = (IPv6Network("fc00::/7"), IPv6Network("::1/128"))
_CARRIERS: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16"))
"""NAT64 and 6to4: an IPv4 address in the clothes of a public IPv6 one."""


class AddressRefused(OSError):
    """Not an address that this hook may reach."""


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Return why an address may not be reached; ``None`` if it may."""
    found = _embedded(ip_address(address.partition("%")[0]))
    private = _PRIVATE if isinstance(found, IPv4Address) else _PRIVATE_6
    if any(found in network for network in private):
        return None if allow_private else f"{found} is a private address; add the hook with --allow-private"
    if found.is_global and not (found.is_multicast or found.is_reserved or found.is_link_local):
        return None
    return f"{found} is not the address of an endpoint"


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 one leads to."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _CARRIERS[0]:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.sixtofour is not None:
            return address.sixtofour
    return address


def socket_maker(*, allow_private: bool) -> Callable[[Any], socket.socket]:
    """Return what makes the sockets of a client; raises ``AddressRefused`` before anything is sent."""

    def make(found: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = found
        why = refusal(address[0], allow_private=allow_private)
        if why is not None:
            raise AddressRefused(errno.EACCES, why)
        return socket.socket(family, kind, protocol)

    return make


def require_usable(url: str, *, allow_private: bool) -> None:
    """Raise ``Invalid`` for what is no address of an endpoint."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Invalid(f"{url!r} is no URL: {error}") from None
    if len(url) > LONGEST_URL or not url.isprintable() or " " in url or parts.fragment or not host:
        raise Invalid(f"{url!r} is no URL of an endpoint, such as https://example.org/hook")
    if parts.scheme != "https" and not (parts.scheme == "http" and allow_private):
        raise Invalid(
            "a hook's URL begins with https://; http:// is for private networks, with --allow-private"
        )
    if parts.username is not None or parts.password is not None:
        raise Invalid("a hook's URL holds no user name or password; a header in the texts can carry them")
    try:
        why = refusal(host, allow_private=allow_private)
    except ValueError:
        return  # a name, whose addresses are checked at each connect
    if why is not None:
        raise Invalid(why)
