"""A PostgreSQL URL -> where to connect, as whom, and how; with libpq's variables for what it leaves out.

All is decided here and nothing is left to the driver, which passes unknown parameters on to the server and
fails on a wrong one only while connecting. No sentence quotes a value: any may be part of a password.
"""

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from kosmo_billing_daemon.runtime.host_names import is_address, is_host_name
from kosmo_billing_daemon.settings.postgres_parameters import ENVIRONMENT, HONOURED, is_known, judge
from kosmo_billing_daemon.settings.postgres_tls import MODES, PostgresTls

DEFAULT_HOSTS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108  as the driver
_ENCODE = "percent-encode special characters of the password, or give it as DATABASE_PASSWORD"
_SCHEME = "a PostgreSQL URL begins with postgresql:// (or postgres://)"
_READING = ("read-only", "standby", "prefer-standby")
_SYNONYMS = {"database": "dbname"}


class BadUrl(ValueError):
    """The URL cannot be used; ``problems`` says why, each beginning with the variable that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """Where the database is. ``ignored`` holds a sentence for each parameter without effect."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str | None = field(repr=False)
    database: str
    passfile: Path | None
    tls: PostgresTls
    direct_tls: bool
    target: str
    options: str | None
    krbsrvname: str | None
    gsslib: str | None
    connect_timeout: float | None
    ignored: tuple[str, ...]

    @property
    def has_tcp(self) -> bool:
        """Whether TLS matters: PostgreSQL has none over a unix socket."""
        return any(not host.startswith("/") for host, _ in self.hosts)


@dataclass(slots=True)
class _Given:
    """The parameters, where each came from, and what is wrong so far."""

    values: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: str, origin: str) -> None:
        if not value and (name in HONOURED or origin in ENVIRONMENT):
            return  # with libpq too, an empty one counts as not given
        if self.values.setdefault(name, value) != value:
            self.wrong(name, "it is given twice; keep one")
        self.origins.setdefault(name, origin)

    def wrong(self, name: str, why: str) -> None:
        origin = self.origins.get(name, "DATABASE_URL")
        self.problems.append(f"{origin}: {why}" if origin in ENVIRONMENT else f"{origin}: {name}: {why}")

    def choice(self, name: str, known: tuple[str, ...]) -> str | None:
        value = self.values.get(name)
        if value is not None and value not in known:
            self.wrong(name, f"the value is not known; give {', '.join(known[:-1])} or {known[-1]}")
            return None
        return value


def read(text: str, environ: Mapping[str, str]) -> PostgresAddress:
    """Read the URL; raises ``BadUrl`` with every problem."""
    given = _Given()
    try:
        _parse(text.strip(), given)
    except ValueError as error:
        raise BadUrl([f"DATABASE_URL: {error}", *given.problems]) from None
    for variable, name in ENVIRONMENT.items():
        if name not in given.values:
            given.add(name, environ.get(variable, ""), variable)
    ignored: list[str] = []
    for name in [name for name in given.values if name not in HONOURED]:
        refused, lost = judge(name, given.values[name])
        if refused is not None:
            given.problems.append(f"{given.origins[name]}: {refused}")
        elif lost is not None:
            ignored.append(f"{given.origins[name]}: {lost}")
    address = _address(given, ignored)
    if given.problems or address is None:
        raise BadUrl(given.problems)
    return address


def _parse(text: str, given: _Given) -> None:
    scheme, found, rest = text.partition("://")
    if scheme not in {"postgresql", "postgres"} or not found:
        if re.match(r"[a-z_]+\s*=", text):
            raise ValueError("this is a key=value string; write it as postgresql://USER@HOST/NAME?KEY=VALUE")
        raise ValueError(_SCHEME)
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    if not text.isprintable() or " " in text:
        raise ValueError(f"a blank or control character is in it; {_ENCODE}")
    if "#" in text or "@" in credentials + path + query or "/" in path:
        raise ValueError(f"host or port cannot be read; {_ENCODE}")
    if at:
        user, _, password = credentials.partition(":")
        given.add("user", _decoded(user), "DATABASE_URL")
        given.add("password", _decoded(password), "DATABASE_URL")
    if hosts:
        _hosts(hosts, given)
    given.add("dbname", _decoded(path), "DATABASE_URL")
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        name, value = _SYNONYMS.get(_decoded(name), _decoded(name)), _decoded(value)
        if (name, value) == ("ssl", "true"):  # as libpq reads what JDBC writes
            name, value = "sslmode", "require"
        if not equals:
            shown = name if is_known(name) else "a parameter"
            given.problems.append(f"DATABASE_URL: {shown} has no value; write NAME=VALUE, or remove it")
        else:
            given.add(name, value, "DATABASE_URL")


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ValueError(f"a % stands without its two digits (%25 is a % itself); {_ENCODE}")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"what is percent-encoded is no UTF-8 text; {_ENCODE}") from None


def _hosts(text: str, given: _Given) -> None:
    """Read ``host:port,host:port`` into the parameters of the same names."""
    hosts, ports = [], []
    for each in text.split(","):
        found = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::([^:]*))?", each)
        if found is None:
            raise ValueError(f"host or port cannot be read; {_ENCODE}")
        hosts.append(_decoded(found[1]))
        ports.append(found[2] or "")
    given.add("host", ",".join(hosts), "DATABASE_URL")
    if any(ports):
        given.add("port", ",".join(ports), "DATABASE_URL")


def _address(given: _Given, ignored: list[str]) -> PostgresAddress | None:
    hosts = _places(given)
    user = given.values.get("user") or _account(given)
    several = len(given.values.get("host", "").split(",")) > 1
    target = None
    if given.values.get("target_session_attrs") in _READING:
        given.wrong("target_session_attrs", "the daemon writes; give read-write, primary or any")
    else:
        target = given.choice("target_session_attrs", ("any", "primary", "read-write"))
    negotiation = given.choice("sslnegotiation", ("postgres", "direct"))
    gsslib = given.choice("gsslib", ("gssapi", "sspi"))
    tls = _tls(given)
    if tls.mode != "disable" and any(not host.startswith("/") for host, _ in hosts):
        tls.context(given.wrong)  # so that a wrong file is named before anybody waits for the database
    if negotiation == "direct" and tls.mode in MODES[:3]:
        given.wrong("sslnegotiation", "direct needs sslmode=require or better")
    passfile = _passfile(given)
    timeout = _timeout(given)
    if user is None:
        return None
    return PostgresAddress(
        hosts=hosts,
        user=user,
        password=given.values.get("password"),
        database=given.values.get("dbname") or user,
        passfile=passfile,
        tls=tls,
        direct_tls=negotiation == "direct",
        target=target or ("read-write" if several else "any"),
        options=given.values.get("options"),
        krbsrvname=given.values.get("krbsrvname"),
        gsslib=gsslib,
        connect_timeout=timeout,
        ignored=tuple(ignored),
    )


def _places(given: _Given) -> tuple[tuple[str, int], ...]:
    hosts = given.values["host"].split(",") if "host" in given.values else list(DEFAULT_HOSTS)
    read = []
    for host in hosts:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        name = bare if bare.startswith("/") else bare.lower().removesuffix(".")
        if not (name.startswith("/") or is_address(name) or (bare == host and is_host_name(name))):
            given.wrong("host", "one of the hosts is none; give names, addresses or paths of directories")
            break
        read.append(bare)
    ports = given.values.get("port", "").split(",")
    if len(ports) not in {1, len(hosts)}:
        given.wrong("port", f"{len(ports)} ports for {len(hosts)} hosts; give one for each, or one for all")
    numbers = []
    for port in ports * (len(hosts) if len(ports) == 1 else 1):
        if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
            given.wrong("port", "a port is a number from 1 to 65535")
            break
        numbers.append(int(port or 5432))
    return tuple(zip(read, numbers, strict=False))


def _account(given: _Given) -> str | None:
    """Return the name that PostgreSQL's clients use where none is given: that of the account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        given.problems.append(
            "DATABASE_URL: no user is in it, and this account has no name of its own;"
            " write postgresql://USER@HOST/NAME"
        )
        return None


def _passfile(given: _Given) -> Path | None:
    if "passfile" not in given.values:
        return None
    path = Path(given.values["passfile"])
    try:
        with path.open("rb"):
            is_private = path.is_file() and not path.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        given.wrong("passfile", f"{path} cannot be read ({getattr(error, 'strerror', None) or 'no path'})")
        return None
    if not is_private:
        given.wrong("passfile", f"{path} must be a plain file that only its owner reads: chmod 600")
    return path


def _timeout(given: _Given) -> float | None:
    value = given.values.get("connect_timeout")
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,2}", value) or not 1 <= int(value) <= 30:
        given.wrong("connect_timeout", "give seconds from 1 to 30")
        return None
    return float(value)


def _tls(given: _Given) -> PostgresTls:
    def path(name: str) -> Path | None:
        return Path(given.values[name]) if name in given.values else None

    mode = given.choice("sslmode", MODES)
    root = given.values.get("sslrootcert")
    tls = PostgresTls(
        mode=mode or ("verify-full" if root == "system" else "prefer"),
        root=None if root == "system" else path("sslrootcert"),
        system_roots=root == "system",
        revoked=path("sslcrl"),
        cert=path("sslcert"),
        key=path("sslkey"),
        key_password=given.values.get("sslpassword", ""),
        oldest=given.choice("ssl_min_protocol_version", ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),
        newest=given.choice("ssl_max_protocol_version", ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),
    )
    if root == "system" and tls.mode != "verify-full":
        given.wrong("sslrootcert", "system needs sslmode=verify-full")
    return tls
