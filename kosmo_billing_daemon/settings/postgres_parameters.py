"""What becomes of each parameter that PostgreSQL's own clients know (libpq, "Parameter Key Words").

The rule it keeps: a parameter is honoured, ignored for a reason that is told, or refused by name. A promise
of security that the driver cannot keep is always refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Rule:
    """What becomes of a parameter, and the variable of libpq that stands in where the URL does not name it.

    Values that change nothing are ignored (``None``: all); any other is refused with the advice.
    """

    variable: str = ""
    why: str = ""
    harmless: frozenset[str] | None = None
    is_silent: bool = True  # nothing is lost, so nothing is told
    is_honoured: bool = False


def _honoured(variable: str = "") -> _Rule:
    return _Rule(variable, is_honoured=True)


def _ignored(why: str, variable: str = "") -> _Rule:
    return _Rule(variable, why, is_silent=False)


def _unless(harmless: str, why: str, variable: str = "") -> _Rule:
    return _Rule(variable, why, frozenset(harmless.split()))


def _refused(why: str, variable: str = "") -> _Rule:
    return _Rule(variable, why, frozenset())


_RULES: Mapping[str, _Rule] = {
    "host": _honoured("PGHOST"),
    "port": _honoured("PGPORT"),
    "dbname": _honoured("PGDATABASE"),
    "user": _honoured("PGUSER"),
    "password": _honoured("PGPASSWORD"),
    "passfile": _honoured("PGPASSFILE"),
    "connect_timeout": _honoured("PGCONNECT_TIMEOUT"),
    "options": _honoured("PGOPTIONS"),
    "sslmode": _honoured("PGSSLMODE"),
    "sslnegotiation": _honoured("PGSSLNEGOTIATION"),
    "sslcert": _honoured("PGSSLCERT"),
    "sslkey": _honoured("PGSSLKEY"),
    "sslpassword": _honoured(),
    "sslrootcert": _honoured("PGSSLROOTCERT"),
    "sslcrl": _honoured("PGSSLCRL"),
    "ssl_min_protocol_version": _honoured("PGSSLMINPROTOCOLVERSION"),
    "ssl_max_protocol_version": _honoured("PGSSLMAXPROTOCOLVERSION"),
    "krbsrvname": _honoured("PGKRBSRVNAME"),
    "gsslib": _honoured("PGGSSLIB"),
    "target_session_attrs": _honoured("PGTARGETSESSIONATTRS"),
    "application_name": _ignored("each session is named after its purpose"),
    "fallback_application_name": _ignored("each session is named after its purpose"),
    "client_encoding": _ignored("sessions always speak UTF8"),
    **dict.fromkeys(
        ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        _ignored("a dead connection is noticed by our own heartbeats and statement timeouts"),
    ),
    "load_balance_hosts": _ignored("only the server that takes writes is of use", "PGLOADBALANCEHOSTS"),
    "sslcompression": _ignored("TLS is never compressed", "PGSSLCOMPRESSION"),
    "sslkeylogfile": _ignored("keys of TLS are written to no file"),
    "gssencmode": _unless(
        "disable prefer", "the driver cannot encrypt by GSSAPI; use sslmode=verify-full", "PGGSSENCMODE"
    ),
    "gssdelegation": _unless("0", "the driver delegates no credentials; remove it", "PGGSSDELEGATION"),
    "channel_binding": _unless(
        "disable prefer",
        "the driver cannot bind channels; remove it and use sslmode=verify-full",
        "PGCHANNELBINDING",
    ),
    "require_auth": _refused(
        "the driver cannot insist on it; remove it and use sslmode=verify-full", "PGREQUIREAUTH"
    ),
    "requirepeer": _refused("the driver cannot check the peer; remove it", "PGREQUIREPEER"),
    "requiressl": _unless("0", "write sslmode=require", "PGREQUIRESSL"),
    "sslcertmode": _unless("allow", "leave out sslcert, or give it; remove this", "PGSSLCERTMODE"),
    "sslcrldir": _refused("give one file as sslcrl", "PGSSLCRLDIR"),
    "sslsni": _unless("1", "the driver always sends the name of the host; remove it", "PGSSLSNI"),
    "min_protocol_version": _unless(
        "3.0", "the driver speaks protocol 3.0; remove it", "PGMINPROTOCOLVERSION"
    ),
    "max_protocol_version": _unless(
        "3.0 3.2 latest", "the driver speaks protocol 3.0; remove it", "PGMAXPROTOCOLVERSION"
    ),
    **dict.fromkeys(("scram_client_key", "scram_server_key"), _refused("give the password instead")),
    **dict.fromkeys(
        ("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
        _refused("the driver does not speak OAuth; use a password or a client certificate"),
    ),
    "replication": _unless("0 off false no", "the daemon needs ordinary sessions; remove it"),
    "service": _refused("write out here what the service file says", "PGSERVICE"),
    "servicefile": _refused("write out here what the service file says"),
    "hostaddr": _refused("give the address as the host", "PGHOSTADDR"),
    "tty": _refused("no server knows it any more; remove it"),
    "authtype": _refused("no server knows it any more; remove it"),
    # Not of libpq: what other drivers and hosts of databases write.
    "ssl": _refused("write sslmode=require, or better sslmode=verify-full with sslrootcert"),
    "sslaccept": _refused("write sslmode=require or sslmode=verify-full"),
    **dict.fromkeys(("schema", "currentschema", "search_path"), _refused("set DATABASE_SCHEMA instead")),
    "pgbouncer": _refused("no pooler may stand between; connect to PostgreSQL directly and remove it"),
    **dict.fromkeys(
        ("connection_limit", "max_connections", "pool_size", "pool_max_conns", "pool_timeout"),
        _refused("set DATABASE_CONNECTIONS instead"),
    ),
}
HONOURED = frozenset(name for name, rule in _RULES.items() if rule.is_honoured)
ENVIRONMENT: Mapping[str, str] = {rule.variable: name for name, rule in _RULES.items() if rule.variable}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,40}")
UNKNOWN = (
    "PostgreSQL's clients know no such parameter; a setting of the server goes into options=-c NAME=VALUE"
)


def is_known(name: str) -> bool:
    """Say whether a name may be quoted: what else stands there may be half a password."""
    return name.lower() in _RULES


def judge(name: str, value: str) -> tuple[str | None, str | None]:
    """Return why a parameter that is not honoured is refused, and what is lost if it is ignored."""
    if not _NAME.fullmatch(name):
        return "a parameter that cannot be read is in it; percent-encode special characters", None
    rule = _RULES.get(name.lower())
    if rule is None or rule.is_honoured:  # which libpq knows in lower case only
        return f"{name}: {UNKNOWN}", None
    if rule.harmless is not None and value and value.lower() not in rule.harmless:
        return f"{name}: {rule.why}", None
    return None, None if rule.is_silent else f"{name} is ignored: {rule.why}"
