"""What is needed together, what excludes what: each branch is built here from the single variables.

Defaults stand in ``tree`` alone. A variable that was given but could not be read is not missing: its
problem is already told.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from kosmo_billing_daemon.settings import postgres_url, tree
from kosmo_billing_daemon.settings.addresses import is_loopback, proxies
from kosmo_billing_daemon.settings.values import SYMMETRIC
from kosmo_billing_daemon.settings.variables import Variables

_DEFAULT_PROXIES = proxies("127.0.0.0/8, ::1, unix")
_TLS_PORT = 8883


@dataclass(frozen=True, slots=True)
class _Found:
    """The readable values, the names of all that was given, and the problems so far."""

    values: Variables
    given: frozenset[str]
    problems: list[str]

    def missing(self, *names: str) -> list[str]:
        return [name for name in names if name not in self.given]

    def among(self, *names: str) -> list[str]:
        return [name for name in names if name in self.given]


def build(
    values: Variables, given: frozenset[str], problems: list[str], environ: Mapping[str, str]
) -> tree.Settings | None:
    """Build the tree, or ``None`` if something it cannot do without is not there; appends to ``problems``."""
    found = _Found(values, given, problems)
    btcpay, database, mqtt, http = _btcpay(found), _database(found, environ), _mqtt(found), _http(found)
    webhook = _webhook(found, http.host, socket_activated=bool(environ.get("LISTEN_FDS")))
    if btcpay is None or database is None:
        return None
    return tree.Settings(
        btcpay=btcpay,
        webhook=webhook,
        database=database,
        mqtt=mqtt,
        http=http,
        retention=tree.Retention(
            **_set(
                deliveries=_delta(days=values.delivery_retention_days),
                usage=_delta(days=values.usage_retention_days),
            )
        ),
        instance=values.instance_name or socket.gethostname(),
        **_set(
            plans_file=values.plans_file,
            expiring_notice=_delta(hours=values.expiring_notice_hours),
            log_format=values.log_format,
            log_level=values.log_level,
        ),
    )


def _set(**fields: Any) -> dict[str, Any]:
    """Leave out what is not set, so that the default of the tree holds."""
    return {name: value for name, value in fields.items() if value is not None}


def _delta(**number: int | None) -> timedelta | None:
    return None if None in number.values() else timedelta(**{unit: n for unit, n in number.items() if n})


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _btcpay(found: _Found) -> tree.Btcpay | None:
    v = found.values
    if missing := found.missing("BTCPAY_URL", "BTCPAY_API_KEY", "BTCPAY_STORE_ID"):
        found.problems.append(f"BTCPay not configured: set {_list(missing)}")
    if v.btcpay_url is None or v.btcpay_api_key is None or v.btcpay_store_id is None:
        return None
    return tree.Btcpay(
        url=v.btcpay_url,
        api_key=v.btcpay_api_key,
        store_id=v.btcpay_store_id,
        public_url=v.btcpay_public_url,
        invoice_expiration=_delta(minutes=v.btcpay_invoice_minutes),
        **_set(timeout=None if v.btcpay_timeout is None else float(v.btcpay_timeout)),
    )


def _webhook(found: _Found, host: str, *, socket_activated: bool) -> tree.WebhookSettings:
    v = found.values
    if v.webhook_trust is tree.WebhookTrust.BODY:
        why = "whoever reaches the port could then write paid invoices"
        if not is_loopback(host):
            found.problems.append(
                f"WEBHOOK_TRUST: body needs HOST on loopback (127.0.0.1), since {why}; "
                "change HOST, or set WEBHOOK_TRUST=btcpay"
            )
        if socket_activated:
            found.problems.append(
                f"WEBHOOK_TRUST: body is refused with a socket from systemd, which may be public: {why}; "
                "stop the socket unit, or set WEBHOOK_TRUST=btcpay"
            )
    return tree.WebhookSettings(
        **_set(secrets=v.webhook_secret, trust=v.webhook_trust), public_url=v.webhook_url
    )


def _database(found: _Found, environ: Mapping[str, str]) -> tree.DatabaseSettings | None:
    v = found.values
    if found.missing("DATABASE_URL"):
        found.problems.append(
            "Database not configured: set DATABASE_URL, such as postgresql://user@host/name "
            "or postgresql:///name?host=/run/postgresql"
        )
    if v.database_url is None:
        return None
    separate = v.database_password
    try:
        # A password of its own stands before PGPASSWORD, as one in the URL does.
        address = postgres_url.read(v.database_url.get_secret_value(), _without_password(environ, separate))
    except postgres_url.BadUrl as error:
        found.problems.extend(error.problems)
        return None
    if separate is not None and address.password is not None:
        found.problems.append(
            "DATABASE_PASSWORD: DATABASE_URL has a password in it too; give it in one place only"
        )
    return tree.DatabaseSettings(
        url=v.database_url,
        password=separate,
        ignored=address.ignored,
        **_set(schema=v.database_schema, connections=v.database_connections),
    )


def _without_password(environ: Mapping[str, str], separate: SecretStr | None) -> Mapping[str, str]:
    return environ if separate is None else {name: environ[name] for name in environ if name != "PGPASSWORD"}


def _mqtt(found: _Found) -> tree.Mqtt:
    v = found.values
    url = v.mqtt_url
    if "MQTT_URL" in found.given:
        twice = found.among("MQTT_HOST", "MQTT_PORT", "MQTT_TLS")
        if url is not None and url.username is not None:
            twice += found.among("MQTT_USERNAME")
        if url is not None and url.password is not None:
            twice += found.among("MQTT_PASSWORD")
        if twice:
            found.problems.append(f"MQTT_URL: it says the same as {_list(twice)}; keep either it or those")
    username = (url and url.username) or v.mqtt_username
    password = (url and url.password) or v.mqtt_password
    if password is not None and username is None and "MQTT_USERNAME" not in found.given:
        found.problems.append("MQTT_PASSWORD: a password without a user name; set MQTT_USERNAME too")
    tls = _tls(found)
    return tree.Mqtt(
        username=username,
        password=password,
        tls=tls,
        **_set(
            host=url.host if url else v.mqtt_host,
            port=(url.port if url else v.mqtt_port) or (_TLS_PORT if tls else None),
            client_id=v.mqtt_client_id,
            prefix=v.mqtt_prefix,
            protocol=v.mqtt_protocol,
            keepalive=v.mqtt_keepalive,
        ),
    )


def _tls(found: _Found) -> tree.Tls | None:
    v = found.values
    files = found.among("MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY")
    wanted = v.mqtt_url.tls if v.mqtt_url is not None else v.mqtt_tls
    if wanted is False and files:
        how = "MQTT_URL begins with mqtt://" if v.mqtt_url is not None else "MQTT_TLS is false"
        found.problems.append(f"{_list(files)}: TLS is off, since {how}; turn it on, or remove the files")
    if not (files if wanted is None else wanted):
        return None
    missing = found.missing("MQTT_TLS_CERT", "MQTT_TLS_KEY")
    if len(missing) == 1:
        found.problems.append(f"{missing[0]}: a certificate and its key come together; set it too")
    try:
        tree.Tls(ca=v.mqtt_tls_ca).context()
    except OSError:
        found.problems.append("MQTT_TLS_CA: no certificate can be read from it; give a file in PEM format")
    tls = tree.Tls(ca=v.mqtt_tls_ca, cert=v.mqtt_tls_cert, key=v.mqtt_tls_key)
    if tls.cert is not None and tls.key is not None:
        try:
            tree.Tls(cert=tls.cert, key=tls.key).context()
        except OSError:
            found.problems.append(
                "MQTT_TLS_CERT, MQTT_TLS_KEY: these are no certificate and the key that fits it; "
                "give both in PEM format, the key without a passphrase"
            )
    return tls


def _http(found: _Found) -> tree.Http:
    v = found.values
    trusted = v.trusted_proxies or _DEFAULT_PROXIES
    return tree.Http(
        trusted_proxies=trusted.networks,
        trust_unix_sockets=trusted.unix,
        jwt=_jwt(found),
        **_set(
            host=v.host,
            port=v.port,
            auth_mode=v.auth_mode,
            allowed_hosts=v.allowed_hosts,
            cors_origins=v.cors_origins,
            redirect_hosts=v.redirect_hosts,
            invoice_rate=v.invoice_rate,
            stream_beat=None if v.stream_beat is None else float(v.stream_beat),
            metrics_token=v.metrics_token,
        ),
    )


def _jwt(found: _Found) -> tree.Jwt | None:
    v = found.values
    if v.auth_mode is not tree.AuthMode.JWT:
        given = [name for name in sorted(found.given) if name.startswith("JWT_")]
        if given and "AUTH_MODE" not in found.given:
            found.problems.append(
                f"AUTH_MODE: {_list(given)} would have no effect; set AUTH_MODE to jwt or header"
            )
        return None
    missing = found.missing("JWT_ALGORITHMS", "JWT_ISSUER", "JWT_AUDIENCE")
    sources = found.among("JWT_JWKS_URL", "JWT_KEY_FILE")
    if not sources:
        missing.insert(0, "JWT_JWKS_URL or JWT_KEY_FILE")
    if missing:
        found.problems.append(f"AUTH_MODE=jwt not configured: set {_list(missing)}")
    if len(sources) == 2:
        found.problems.append("JWT_JWKS_URL, JWT_KEY_FILE: both say where the key is; keep one")
    if SYMMETRIC & set(v.jwt_algorithms or ()):
        if "JWT_JWKS_URL" in found.given:
            found.problems.append(
                "JWT_ALGORITHMS: HS… needs a shared secret, which no web address may hold; give JWT_KEY_FILE"
            )
        # The classic confusion: everybody may know a public key, so everybody could sign with it.
        elif v.jwt_key_file is not None and b"-----BEGIN" in v.jwt_key_file.read_bytes()[:4096]:
            found.problems.append(
                "JWT_ALGORITHMS: HS… with a PEM key would let everybody who has the public key sign; "
                "name the algorithm of that key"
            )
    if v.jwt_algorithms is None or v.jwt_issuer is None or v.jwt_audience is None:
        return None
    return tree.Jwt(
        jwks_url=v.jwt_jwks_url,
        key_file=v.jwt_key_file,
        algorithms=v.jwt_algorithms,
        issuer=v.jwt_issuer,
        audience=v.jwt_audience,
        **_set(claim=v.jwt_claim, leeway=_delta(seconds=v.jwt_leeway)),
    )
