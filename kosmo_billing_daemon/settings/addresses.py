"""Hosts, URLs and networks as operators write them -> values; the sentences keep the rule of ``values``.

URLs may hold passwords, and so do the messages of ``urlsplit``: neither is ever quoted.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from kosmo_billing_daemon.settings.tree import Network
from kosmo_billing_daemon.settings.values import one_line, secret, shown, words

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


def host(text: str) -> str:
    """Read a host name or an address, with or without the brackets of IPv6."""
    name = text.strip().lower()
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not is_address(bare) and not is_host_name(bare):
        raise ValueError(f"{shown(name)} is no host; give a name or an address, without scheme and port")
    return bare


def is_host_name(text: str) -> bool:
    return _HOST_NAME.fullmatch(text) is not None


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(name).is_loopback if is_address(name) else name == "localhost"


def _split(text: str) -> SplitResult:
    # urlsplit's own messages quote parts of the URL, passwords among them.
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        raise ValueError("this is no URL (host or port cannot be read)") from None
    if parts.hostname and not _can_be_looked_up(parts.hostname):
        raise ValueError("this is no URL (its host is neither a name nor an address)")
    if not text.strip().isprintable() or " " in text.strip():
        raise ValueError("this is no URL (a blank or control character is in it)")
    return parts


def _can_be_looked_up(name: str) -> bool:
    """Whether a resolver takes the host of a URL; letters outside ASCII go there in another form."""
    try:
        plain = name if is_address(name) else name.encode("idna").decode().removesuffix(".")
    except UnicodeError:
        return False
    return is_address(plain) or is_host_name(plain.lower())


def web_url(text: str) -> str:
    """Read an http or https address; the result has no final slash."""
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{shown(text)} is no web address; give it as https://host or http://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user name or password is in it; give the address alone")
    if parts.query or parts.fragment:
        raise ValueError("a ? or # is in it; give the address up to the path")
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl().rstrip("/")


def btcpay_url(text: str) -> str:
    """Read where BTCPay is, without the path of its API, which the client adds."""
    url = web_url(text)
    if url.endswith(("/api", "/api/v1")):
        raise ValueError(
            "it ends with the path of the API; give the address of BTCPay alone, without /api/v1"
        )
    return url


def jwks_url(text: str) -> str:
    """Read where the keys are; what signs identities must not be exchanged on the way."""
    url = web_url(text.partition("?")[0])
    parts = _split(text)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("keys over plain http could be exchanged on the way; give an https:// address")
    return f"{url}?{parts.query}" if parts.query else url


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """What an ``MQTT_URL`` says."""

    tls: bool
    host: str
    port: int | None
    username: str | None
    password: SecretStr | None


def broker_url(text: str) -> BrokerUrl:
    """Read mqtt:// or mqtts://, with user and password if they are in it."""
    parts = _split(text)
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise ValueError("a broker URL is mqtt://host or mqtts://host, with user@ and :port if needed")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            "something follows the host and port; percent-encode special characters of the password"
        )
    if parts.port == 0:
        raise ValueError("port 0 is none; give a port from 1 to 65535, or none for the usual one")
    return BrokerUrl(
        tls=parts.scheme == "mqtts",
        host=host(parts.hostname),
        port=parts.port,
        username=one_line(unquote(parts.username)) if parts.username else None,
        password=secret(unquote(parts.password)) if parts.password else None,
    )


@dataclass(frozen=True, slots=True)
class Proxies:
    """Whose word on the user is taken."""

    networks: tuple[Network, ...]
    unix: bool


def proxies(text: str) -> Proxies:
    """Read addresses, networks and the word ``unix``."""
    networks: list[Network] = []
    unix = False
    for word in words(text):
        if word.lower() == "unix":
            unix = True
            continue
        try:
            network = ip_network(word, strict=False)
        except ValueError:
            raise ValueError(
                f"{shown(word)} is no address or network; give 10.0.0.7, 10.0.0.0/24 or unix"
            ) from None
        if network.prefixlen == 0:
            raise ValueError(f"{shown(word)} is everybody, and everybody could be any user; name the proxies")
        if not is_address(word) and ip_address(word.partition("/")[0]) != network.network_address:
            raise ValueError(f"{shown(word)} is an address within a network; the network itself is {network}")
        networks.append(network)
    return Proxies(tuple(networks), unix)


def origins(text: str) -> tuple[str, ...]:
    """Read origins as browsers send them: lower case, no default port, no final slash."""
    given = words(text)
    if "*" in given:
        if len(given) > 1:
            raise ValueError("* stands beside other origins; give * alone or the origins alone")
        return ("*",)
    return tuple(dict.fromkeys(_origin(word) for word in given))


def _origin(word: str) -> str:
    parts = _split(word)
    plain = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    if not plain or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(
            f"{shown(word)} is no origin; give scheme, host and port only, as https://kosmo.example"
        )
    default = {"http": 80, "https": 443}[parts.scheme]
    name = parts.netloc.lower().removesuffix(f":{default}")
    return f"{parts.scheme}://{name}"


def hosts(text: str) -> frozenset[str]:
    """Read host names with a comma between."""
    return frozenset(host(word) for word in words(text))
