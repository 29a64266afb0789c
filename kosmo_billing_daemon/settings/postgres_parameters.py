"""What becomes of each parameter that PostgreSQL's own clients know (libpq, "Parameter Key Words").

The rule it keeps: a parameter is honoured, ignored for a reason that is told, or refused by name. A promise
of security that the driver cannot keep is always refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

HONOURED = frozenset(
    {
        "host",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "connect_timeout",
        "options",
        "sslmode",
        "sslnegotiation",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
        "target_session_attrs",
    }
)

ENVIRONMENT: Mapping[str, str] = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGREQUIREAUTH": "require_auth",
    "PGCHANNELBINDING": "channel_binding",
    "PGSERVICE": "service",
    "PGOPTIONS": "options",
    "PGSSLMODE": "sslmode",
    "PGREQUIRESSL": "requiressl",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLCOMPRESSION": "sslcompression",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCRL": "sslcrl",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLSNI": "sslsni",
    "PGREQUIREPEER": "requirepeer",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGMINPROTOCOLVERSION": "min_protocol_version",
    "PGMAXPROTOCOLVERSION": "max_protocol_version",
    "PGGSSENCMODE": "gssencmode",
    "PGKRBSRVNAME": "krbsrvname",
    "PGGSSLIB": "gsslib",
    "PGGSSDELEGATION": "gssdelegation",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGLOADBALANCEHOSTS": "load_balance_hosts",
}
"""Variables of libpq that stand in for a parameter that the URL does not name."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Values that change nothing are ignored (``None``: all); any other is refused with the advice."""

    harmless: frozenset[str] | None
    why: str
    silent: bool = True  # nothing is lost, so nothing is told


def _ignored(why: str) -> _Rule:
    return _Rule(None, why, silent=False)


def _unless(harmless: str, why: str) -> _Rule:
    return _Rule(frozenset(harmless.split()), why)


def _refused(why: str) -> _Rule:
    return _Rule(frozenset(), why)


_BY_SIGNS_OF_LIFE = "a dead connection is noticed by our own signs of life and statement timeouts"
_POOL = "set DATABASE_CONNECTIONS instead"
_SCHEMA = "set DATABASE_SCHEMA instead"
_OAUTH = "the driver does not speak OAuth; use a password or a client certificate"
_NO_KEYS = "give the password instead"

_RULES: Mapping[str, _Rule] = {
    "application_name": _ignored("each session is named after its purpose"),
    "fallback_application_name": _ignored("each session is named after its purpose"),
    "client_encoding": _ignored("sessions always speak UTF8"),
    "keepalives": _ignored(_BY_SIGNS_OF_LIFE),
    "keepalives_idle": _ignored(_BY_SIGNS_OF_LIFE),
    "keepalives_interval": _ignored(_BY_SIGNS_OF_LIFE),
    "keepalives_count": _ignored(_BY_SIGNS_OF_LIFE),
    "tcp_user_timeout": _ignored(_BY_SIGNS_OF_LIFE),
    "load_balance_hosts": _ignored("only the server that takes writes is of use"),
    "sslcompression": _ignored("TLS is never compressed"),
    "sslkeylogfile": _ignored("keys of TLS are written to no file"),
    "gssencmode": _unless("disable prefer", "the driver cannot encrypt by GSSAPI; use sslmode=verify-full"),
    "gssdelegation": _unless("0", "the driver delegates no credentials; remove it"),
    "channel_binding": _unless(
        "disable prefer", "the driver cannot bind channels; remove it and use sslmode=verify-full"
    ),
    "require_auth": _refused("the driver cannot insist on it; remove it and use sslmode=verify-full"),
    "requirepeer": _refused("the driver cannot check the peer; remove it"),
    "requiressl": _unless("0", "write sslmode=require"),
    "sslcertmode": _unless("allow", "leave out sslcert, or give it; remove this"),
    "sslcrldir": _refused("give one file as sslcrl"),
    "sslsni": _unless("1", "the driver always sends the name of the host; remove it"),
    "min_protocol_version": _unless("3.0", "the driver speaks protocol 3.0; remove it"),
    "max_protocol_version": _unless("3.0 3.2 latest", "the driver speaks protocol 3.0; remove it"),
    "scram_client_key": _refused(_NO_KEYS),
    "scram_server_key": _refused(_NO_KEYS),
    "oauth_issuer": _refused(_OAUTH),
    "oauth_client_id": _refused(_OAUTH),
    "oauth_client_secret": _refused(_OAUTH),
    "oauth_scope": _refused(_OAUTH),
    "replication": _unless("0 off false no", "the daemon needs ordinary sessions; remove it"),
    "service": _refused("write out here what the service file says"),
    "servicefile": _refused("write out here what the service file says"),
    "hostaddr": _refused("give the address as the host"),
    "tty": _refused("no server knows it any more; remove it"),
    "authtype": _refused("no server knows it any more; remove it"),
    # Not of libpq: what other drivers and hosts of databases write.
    "ssl": _refused("write sslmode=require, or better sslmode=verify-full with sslrootcert"),
    "sslaccept": _refused("write sslmode=require or sslmode=verify-full"),
    "schema": _refused(_SCHEMA),
    "currentschema": _refused(_SCHEMA),
    "search_path": _refused(_SCHEMA),
    "pgbouncer": _refused("no pooler may stand between; connect to PostgreSQL directly and remove it"),
    "connection_limit": _refused(_POOL),
    "max_connections": _refused(_POOL),
    "pool_size": _refused(_POOL),
    "pool_max_conns": _refused(_POOL),
    "pool_timeout": _refused(_POOL),
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,40}")
UNKNOWN = (
    "PostgreSQL's clients know no such parameter; a setting of the server goes into options=-c NAME=VALUE"
)


def is_known(name: str) -> bool:
    """Say whether a name may be quoted: what else stands there may be half a password."""
    return name in HONOURED or name.lower() in _RULES


def judge(name: str, value: str) -> tuple[str | None, str | None]:
    """Return why a parameter that is not honoured is refused, and what is lost if it is ignored."""
    if not _NAME.fullmatch(name):
        return "a parameter that cannot be read is in it; percent-encode special characters", None
    rule = _RULES.get(name.lower())
    if rule is None:
        return f"{name}: {UNKNOWN}", None
    if rule.harmless is not None and value and value.lower() not in rule.harmless:
        return f"{name}: {rule.why}", None
    return None, None if rule.silent else f"{name} is ignored: {rule.why}"
