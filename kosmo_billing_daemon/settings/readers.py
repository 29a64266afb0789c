"""Text as operators write it -> values, each with a sentence saying what would have been right.

A sentence quotes what was given only through ``shown``, which keeps back whatever may be a secret in the
wrong place: something long, or a URL with a password. ``urlsplit`` quotes passwords too, so its own messages
are never passed on.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from kosmo_billing_daemon.runtime.host_names import is_address, is_host_name, is_loopback

Network = IPv4Network | IPv6Network

E = TypeVar("E", bound=StrEnum)

_LONGEST_SHOWN = 24  # shorter than any key BTCPay or a password generator makes


def shown(text: str) -> str:
    """Quote what was given if that can do no harm."""
    harmless = len(text) <= _LONGEST_SHOWN and text.isprintable() and not set("@'") & set(text)
    return f"'{text}'" if harmless else "the value"


def number(low: int, high: int, unit: str = "", one: Any = 1, *, wanted: str = "") -> Callable[[str], Any]:
    """Make a reader of whole numbers of a ``unit``; the value of ``one`` of them says which type it gives."""
    wanted = wanted or f"{unit} from {low} to {high}"

    def read(text: str) -> Any:
        text = text.strip()
        # Not int() alone: it takes "1_000", "+5" and digits of other scripts.
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise ValueError(f"{shown(text)} is not a whole number; give {wanted}")
        if not low <= int(text) <= high:
            raise ValueError(f"{shown(text)} is out of range; give {wanted}")
        return int(text) * one

    return read


def hours_before(text: str) -> tuple[int, ...]:
    """Read hours before an end, with commas, greatest first; ``off`` for none."""
    if text.strip().lower() == "off":
        return ()
    one = number(1, 720, "hours")
    return tuple(sorted({one(word) for word in text.split(",")}, reverse=True))


def choice(kind: type[E]) -> Callable[[str], E]:
    """Make a reader of one word of ``kind``, whatever its case."""

    def read(text: str) -> E:
        try:
            return kind(text.strip().lower())
        except ValueError:
            known = " or ".join(kind) if len(kind) < 3 else f"one of {', '.join(kind)}"
            raise ValueError(f"{shown(text)} is not known; give {known}") from None

    return read


def switch(text: str) -> bool:
    """Read yes or no."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"{shown(text)} is neither true nor false; give true or false")


def one_line(text: str) -> str:
    """Read a line of text."""
    text = text.strip()
    if not text.isprintable():
        raise ValueError("a line break or control character is in it; give one line of text")
    return text


def secret(text: str) -> SecretStr:
    """Read a password as it is; only the line end of a file was taken off before."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("a line break or control character is in it; give the password alone, on one line")
    return SecretStr(text)


def unread(text: str) -> SecretStr:
    """Keep what is read later, together with other variables."""
    return SecretStr(text.strip())


def token(text: str) -> SecretStr:
    """Read a key that is sent in a header."""
    text = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,512}", text):
        raise ValueError("a blank or a character no key has is in it; paste the key alone")
    return SecretStr(text)


def webhook_secrets(text: str) -> tuple[SecretStr, ...]:
    """Read one secret, or the new and the old one."""
    given = list(dict.fromkeys(words(text)))
    if len(given) > 2:
        raise ValueError(
            f"{len(given)} secrets given; give one, or the new and the old one with a comma between"
        )
    return tuple(SecretStr(word) for word in given)


def matching(pattern: str, why: str) -> Callable[[str], str]:
    """Make a reader of texts of one form; ``why`` another is none ends its sentence."""

    def read(text: str) -> str:
        text = text.strip()
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{shown(text)} {why}")
        return text

    return read


schema = matching(
    r"(?!pg_|information_schema\Z)[a-z_][a-z0-9_]{0,62}",  # needs no quotes; 63 bytes is PostgreSQL's limit
    "cannot be our schema; give lower-case letters, digits and _, at most 63, not pg_…",
)
store_id = matching(
    "[A-Za-z0-9_-]{1,128}", "is no store id; copy it from the settings of the store in BTCPay"
)
client_id = matching(
    "[A-Za-z0-9._:@-]{1,64}", "is no client id; give letters, digits and . _ : @ -, at most 64"
)


def topic_prefix(text: str) -> str:
    """Read the first levels of every topic of ours."""
    prefix = text.strip()
    if not prefix.isprintable() or set("+#") & set(prefix) or len(prefix.encode()) > 200:
        raise ValueError("wildcards (+ #), control characters or more than 200 bytes cannot begin our topics")
    if "" in prefix.split("/") or prefix.startswith("$"):
        raise ValueError(
            f"{shown(prefix)} has an empty level, a / at an end or a leading $; write it as a/b/c"
        )
    return prefix


def file(text: str) -> Path:
    """Read the path of a file we may read."""
    path = Path(text.strip())
    try:
        # Asked first, because opening a pipe waits for its other end.
        plain = path.is_file() or not path.exists()
        if plain:
            with path.open("rb") as opened:
                opened.read(1)
    except OSError as error:
        why = (error.strerror or "unknown").lower()
        raise ValueError(f"the file cannot be read ({why}); give the path of a file we may read") from None
    if not plain:
        raise ValueError("that is no plain file; give the path of a file we may read")
    return path


SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA"}
)


def algorithms(text: str) -> tuple[str, ...]:
    """Read the signatures that are accepted, none of which may stand for another."""
    by_name = {name.lower(): name for name in SYMMETRIC | ASYMMETRIC}
    names: list[str] = []
    for word in words(text):
        if word.lower() == "none":
            raise ValueError("none accepts tokens nobody signed; name the algorithm your issuer signs with")
        if word.lower() not in by_name:
            raise ValueError(f"{shown(word)} is not known; known are {', '.join(sorted(by_name.values()))}")
        names.append(by_name[word.lower()])
    if SYMMETRIC & set(names) and ASYMMETRIC & set(names):
        raise ValueError("HS… beside others would let a public key pass as a shared secret; keep to one kind")
    return tuple(dict.fromkeys(names))


def words(text: str) -> list[str]:
    """Split a list at commas and blanks."""
    found = [word for word in re.split(r"[,\s]+", text) if word]
    if not found:
        raise ValueError("nothing stands between the commas; give at least one, or leave it unset")
    return found


def host(text: str) -> str:
    """Read a host name or an address, with or without the brackets of IPv6."""
    name = text.strip().lower()
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not is_address(bare) and not is_host_name(bare):
        raise ValueError(f"{shown(name)} is no host; give a name or an address, without scheme and port")
    return bare


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


class BrokerUrl(NamedTuple):
    """What an ``MQTT_URL`` says."""

    tls: bool
    host: str
    port: int | None
    username: str | None
    password: SecretStr | None

    def named(self) -> dict[str, Any]:
        """Return what is in it, by the names of the single settings."""
        return {name: value for name, value in self._asdict().items() if value is not None}


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


class Proxies(NamedTuple):
    """Whose word on the user is taken: peers in these networks, and those of a unix socket."""

    networks: tuple[Network, ...]
    unix: bool = True


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
