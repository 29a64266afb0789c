"""The settings: one entry each, with its variable, reader, type, default and description.

From these entries come what ``load`` reads, the branches that the parts of the daemon receive, and
``config/kosmo-billing.env`` with its comments. After a change: ``python -m tests.settings.generate``.

Each part is given its branch alone, so what a part may know is visible where it is built. Branches are frozen
and checked, and their secrets do not print.
"""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from kosmo_billing_daemon.runtime.logs import Format, Level
from kosmo_billing_daemon.settings import readers as read
from kosmo_billing_daemon.settings.admin_listen import DEFAULT, AdminAddress, admin_address
from kosmo_billing_daemon.settings.readers import Proxies, choice, number


@dataclass(frozen=True, slots=True)
class Env:
    """Where a field is read from; beside a branch, a variable that decides about all of it."""

    name: str
    read: Callable[[str], Any]
    example: str = ""  # for the environment file, where the default is nothing


class Secret(Env):
    """One whose value must be shown to nobody."""


def _days(least: int) -> Callable[[str], Any]:
    return number(least, 36500, "days", timedelta(days=1))


class WebhookTrust(StrEnum):
    """What counts as the fact when a webhook arrives."""

    BTCPAY = "btcpay"  # the invoice fetched from BTCPay
    BODY = "body"  # what the request says; for local trials


class MqttProtocol(StrEnum):
    V5 = "5"
    V311 = "3.1.1"


class CreditMode(StrEnum):
    """What becomes of money that bought nothing."""

    AUTO = "auto"  # it is the user's credit, and is spent first
    OFF = "off"  # it is a case for the operator


class AuthMode(StrEnum):
    """How a request names its user."""

    HEADER = "header"  # X-User-ID, from trusted proxies
    JWT = "jwt"  # a signed bearer token


_LOCAL = read.proxies("127.0.0.0/8,::1,unix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Btcpay:
    """Addresses have no final slash."""

    url: Annotated[str, Env("BTCPAY_URL", read.btcpay_url, "https://btcpay.example.org")]
    """Where the daemon reaches BTCPay Server, without /api/v1. Required."""
    api_key: Annotated[SecretStr, Secret("BTCPAY_API_KEY", read.token)]
    """API key (secret). Required. systemd/README.md lists the permissions it needs."""
    store_id: Annotated[str, Env("BTCPAY_STORE_ID", read.store_id)]
    """Id of the store that sells the plans. Required."""
    public_url: Annotated[str | None, Env("BTCPAY_PUBLIC_URL", read.web_url, "https://pay.example.org")] = (
        None
    )
    """Where customers reach BTCPay, if not at BTCPAY_URL: checkout links are rewritten to it."""
    invoice_expiration: Annotated[
        timedelta | None,
        Env("BTCPAY_INVOICE_MINUTES", number(1, 1440, "minutes", timedelta(minutes=1)), "15"),
    ] = None
    """Minutes an invoice can be paid, 1 to 1440. Unset: the store's setting."""
    timeout: Annotated[float, Env("BTCPAY_TIMEOUT", number(1, 120, "seconds", 1.0))] = 15.0
    """Timeout of one call in seconds, 1 to 120."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    secrets: Annotated[tuple[SecretStr, ...], Secret("WEBHOOK_SECRET", read.webhook_secrets)] = ()
    """The secret that BTCPay signs webhooks with; "new,old" while you change it. Unset: unsigned webhooks are
    accepted. Every webhook is checked against BTCPay in any case."""
    trust: Annotated[WebhookTrust, Env("WEBHOOK_TRUST", choice(WebhookTrust))] = WebhookTrust.BTCPAY
    """What is believed: btcpay (the invoice read from BTCPay) or body (the webhook itself; for local
    development only, refused unless HOST is loopback)."""
    public_url: Annotated[
        str | None,
        Env("WEBHOOK_URL", read.web_url, "https://api.example.org/api/v1/billing/webhooks/btcpay"),
    ] = None
    """The full URL at which BTCPay reaches our webhook; `kosmo-billing webhook register` registers it
    there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """``url`` as the operator wrote it; connect with ``dsn()``. ``ignored`` says what of it has no effect."""

    url: Annotated[SecretStr, Secret("DATABASE_URL", read.unread, "postgresql:///kosmo?host=/run/postgresql")]
    """Required. Over a unix socket, or postgresql://user@host:5432/name; separate several hosts by commas.
    The parameters after ? are those of PostgreSQL's own clients; config/README.md says which have an
    effect."""
    password: Annotated[SecretStr | None, Secret("DATABASE_PASSWORD", read.secret)] = None
    """The password, if the URL has none (secret)."""
    ignored: tuple[str, ...] = ()
    schema: Annotated[str, Env("DATABASE_SCHEMA", read.schema)] = "public"
    """Schema of our tables; the platform's gateway looks for them in public."""
    # Below 3 the loops and the requests could wait for each other; PostgreSQL itself allows 100 by default.
    connections: Annotated[int, Env("DATABASE_CONNECTIONS", number(3, 500, "connections"))] = 10
    """Maximum number of connections, 3 to 500."""

    def dsn(self) -> str:
        """Return the URL with the separate password in it; a secret."""
        url = self.url.get_secret_value()
        if self.password is None:
            return url
        # As a parameter it also serves URLs that name no user or host, as those of unix sockets.
        separator = "&" if urlsplit(url).query else "?"
        password = quote(self.password.get_secret_value(), safe="")
        return f"{url.removesuffix('?')}{separator}password={password}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """``ca`` replaces the system's authorities; ``cert`` and ``key`` come together or not at all."""

    ca: Annotated[Path | None, Env("MQTT_TLS_CA", read.file, "/etc/kosmo-billing/mqtt-ca.pem")] = None
    cert: Annotated[Path | None, Env("MQTT_TLS_CERT", read.file, "/etc/kosmo-billing/mqtt-client.pem")] = None
    key: Annotated[Path | None, Env("MQTT_TLS_KEY", read.file, "/etc/kosmo-billing/mqtt-client.key")] = None

    def context(self) -> ssl.SSLContext:
        """Read the files; raises ``OSError`` or ``ssl.SSLError`` (an ``OSError`` too)."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            # With a password of our own OpenSSL fails on an encrypted key instead of asking the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    host: Annotated[str, Env("MQTT_HOST", read.host)] = "127.0.0.1"
    """The broker. The port is 8883 with TLS."""
    port: Annotated[int, Env("MQTT_PORT", number(1, 65535, "a port"))] = 1883
    username: Annotated[str | None, Env("MQTT_USERNAME", read.one_line, "kosmo-billing")] = None
    """The daemon's account (the password is secret)."""
    password: Annotated[SecretStr | None, Secret("MQTT_PASSWORD", read.secret)] = None
    client_id: Annotated[str, Env("MQTT_CLIENT_ID", read.client_id)] = "kosmo-billing"
    """The client id is fixed, because a new leader takes over the session of the old one."""
    prefix: Annotated[str, Env("MQTT_PREFIX", read.topic_prefix)] = "kosmo/billing/v1"
    """First levels of every topic."""
    protocol: Annotated[MqttProtocol, Env("MQTT_PROTOCOL", choice(MqttProtocol))] = MqttProtocol.V5
    """5, or 3.1.1 for an old broker, which cannot report refused publications."""
    keepalive: Annotated[int, Env("MQTT_KEEPALIVE", number(2, 3600, "seconds"))] = 10
    """Seconds, 2 to 3600. A dead connection is noticed within twice this time."""
    tls: Annotated[Tls | None, Env("MQTT_TLS", read.switch, "false")] = None
    """TLS; naming one of the files turns it on. CA: the authority (default: the system's). CERT and KEY: our
    client certificate, if the broker asks for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """How bearer tokens are checked; exactly one of ``jwks_url`` and ``key_file`` is given."""

    jwks_url: Annotated[
        str | None, Env("JWT_JWKS_URL", read.jwks_url, "https://id.example.org/.well-known/jwks.json")
    ] = None
    """Where the keys are: a URL, or a file (PEM, or the shared secret of HS256). One of them is required."""
    key_file: Annotated[Path | None, Env("JWT_KEY_FILE", read.file, "/etc/kosmo-billing/jwt-key.pem")] = None
    algorithms: Annotated[tuple[str, ...], Env("JWT_ALGORITHMS", read.algorithms, "RS256")]
    """Allowed algorithms, issuer and audience of a token. Required."""
    issuer: Annotated[str, Env("JWT_ISSUER", read.one_line, "https://id.example.org")]
    audience: Annotated[str, Env("JWT_AUDIENCE", read.one_line, "kosmo-billing")]
    claim: Annotated[str, Env("JWT_CLAIM", read.one_line)] = "sub"
    """The claim that holds the user's UUID."""
    leeway: Annotated[timedelta, Env("JWT_LEEWAY", number(0, 300, "seconds", timedelta(seconds=1)))] = (
        timedelta(seconds=30)
    )
    """Tolerated clock difference in seconds, 0 to 300."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """``jwt`` is there exactly when ``auth_mode`` is jwt. Names of hosts are in lower case."""

    host: Annotated[str, Env("HOST", read.host)] = "127.0.0.1"
    """Where to listen; port 0 takes any free port. Ignored when systemd passes a socket."""
    port: Annotated[
        int, Env("PORT", number(0, 65535, wanted="a port from 1 to 65535, or 0 for any free one"))
    ] = 8004
    auth_mode: Annotated[AuthMode, Env("AUTH_MODE", choice(AuthMode))] = AuthMode.HEADER
    """How requests identify their user: header (X-User-ID, from trusted proxies only) or jwt (a bearer
    token)."""
    trusted_proxies: Annotated[Proxies, Env("TRUSTED_PROXIES", read.proxies)] = _LOCAL
    """Trusted proxies: addresses, networks and "unix" (peers on a unix socket), separated by commas."""
    allowed_hosts: Annotated[frozenset[str], Env("ALLOWED_HOSTS", read.hosts, "kosmoconnect.example.org")] = (
        frozenset()
    )
    """With AUTH_MODE=header: names that the proxy may send in Host, separated by commas. Addresses and
    localhost are always allowed. Unset: names without a dot and names without a port are allowed, which
    covers the usual proxies. This stops DNS rebinding by a web page in a browser on this host."""
    cors_origins: Annotated[
        tuple[str, ...], Env("CORS_ORIGINS", read.origins, "https://kosmoconnect.example.org")
    ] = ()
    """Origins of web pages that may call the API, separated by commas; * for all. Unset: none."""
    redirect_hosts: Annotated[
        frozenset[str], Env("REDIRECT_HOSTS", read.hosts, "kosmoconnect.example.org")
    ] = frozenset()
    """Hosts to which a customer may return after paying. Unset: any, over https."""
    invoice_rate: Annotated[int, Env("INVOICE_RATE", number(1, 1000, "invoices per minute"))] = 10
    """New invoices per user and minute, 1 to 1000; as many are allowed at once. A repeated request for a plan
    whose invoice is still open does not count. Each daemon counts separately."""
    new_nodes_per_day: Annotated[int, Env("NEW_NODES_PER_DAY", number(1, 1000, "nodes per day"))] = 10
    """New nodes that a user may put on the whitelist in 24 hours, 1 to 1000. Listing a node again that was
    taken off does not count, nor does what an operator lists."""
    stream_beat: Annotated[float, Env("STREAM_BEAT", number(1, 300, "seconds", 1.0))] = 15.0
    """Seconds between heartbeats on event streams, 1 to 300. Must be less than the proxy's idle timeout."""
    public_url: Annotated[str | None, Env("PUBLIC_URL", read.web_url, "https://billing.example.org")] = None
    """Where people reach this daemon: renewal links (PUBLIC_URL/r/...) begin with it. A short name leaves
    room in a mesh text. Unset: no links are given out."""
    metrics_token: Annotated[SecretStr | None, Secret("METRICS_TOKEN", read.token)] = None
    """Bearer token that /metrics requires (secret; in Prometheus: authorization.credentials_file). Unset:
    anybody who reaches the port can read the metrics, which name no user. Better set as a credential."""
    jwt: Jwt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long finished rows are kept."""

    # Below 4 days a delivery could be forgotten while its invoice may still be paid late (72 h).
    deliveries: Annotated[timedelta, Env("DELIVERY_RETENTION_DAYS", _days(4))] = timedelta(days=60)
    """Days to keep the log of webhook deliveries, at least 4."""
    # Reports are accepted 7 days late; a message forgotten earlier could be counted twice.
    usage: Annotated[timedelta, Env("USAGE_RETENTION_DAYS", _days(8))] = timedelta(days=90)
    """Days to keep single counted messages, at least 8."""
    usage_days: Annotated[timedelta, Env("DAILY_USAGE_RETENTION_DAYS", _days(8))] = timedelta(days=400)
    """Days to keep how many messages each user sent on each day, at least 8."""
    events: Annotated[timedelta, Env("EVENT_RETENTION_DAYS", _days(8))] = timedelta(days=400)
    """Days to keep events, at least 8."""
    # An invoice younger than 30 days may be open; late payments count for 72 h.
    invoices: Annotated[timedelta, Env("INVOICE_RETENTION_DAYS", _days(30))] = timedelta(days=90)
    """Days to keep expired and abandoned invoices on which no money was seen, at least 30. All others are
    kept for ever."""
    # Reports are accepted 7 days late, and change the document of a lapsed user too.
    documents: Annotated[timedelta, Env("DOCUMENT_RETENTION_DAYS", _days(8))] = timedelta(days=180)
    """Days after the end of a user's last plan until the retained document is cleared, at least 8."""
    links: Annotated[timedelta, Env("LINK_RETENTION_DAYS", _days(8))] = timedelta(days=400)
    """Days after the end of a user's last plan until the renewal link is forgotten, at least 8. The user gets
    the same one when it is shown again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the operator may decide."""

    btcpay: Btcpay
    webhook: WebhookSettings
    database: DatabaseSettings
    mqtt: Annotated[Mqtt, Secret("MQTT_URL", read.broker_url, "mqtts://kosmo-billing@broker.example.org")]
    """Host, port, user and TLS of the broker in one URL (mqtts:// is TLS), instead of the separate
    settings."""
    http: Http
    admin_listen: Annotated[
        AdminAddress | None, Env("ADMIN_LISTEN", admin_address, "/run/kosmo-billing/admin.sock")
    ] = DEFAULT
    """Where the operators' console listens: the path of a Unix socket, or 127.0.0.1:PORT. Never reachable
    from outside. `kosmo-billing console` opens it there, so let a socket that systemd holds for it agree.
    Empty: no console."""
    plans_file: Annotated[Path | None, Env("PLANS_FILE", read.file, "/etc/kosmo-billing/plans.toml")] = None
    """The catalogue. Unset: the built-in one, equal to the plans.toml shipped beside this file."""
    credit: Annotated[CreditMode, Env("CREDIT", choice(CreditMode))] = CreditMode.AUTO
    """Money that bought nothing (paid late, in part or too much): auto makes it the user's credit; off lists
    it as a case for the operator."""
    remind_hours: Annotated[tuple[int, ...], Env("REMIND_HOURS", read.hours_before)] = (168, 72, 24)
    """Hours before the end of a subscription at which its user is reminded (event subscription.expiring),
    each from 1 to 720, separated by commas; off: never."""
    usage_messages: Annotated[
        int, Env("USAGE_MESSAGES_PER_MINUTE", number(1, 1_000_000_000, "messages per minute"))
    ] = 6_000
    """Messages of one user that one gateway may report per minute, 1 to 1000000000. What is beyond it is kept
    in quarantine and opens a case: kosmo-billing usage cases."""
    usage_users: Annotated[
        int, Env("USAGE_USERS_PER_MINUTE", number(1, 1_000_000_000, "users per minute"))
    ] = 6_000
    """Users whose messages one gateway may report per minute, 1 to 1000000000. Beyond it the same happens."""
    retention: Retention
    log_format: Annotated[Format, Env("LOG_FORMAT", choice(Format))] = Format.AUTO
    """text, json, journal, or auto (journal under systemd, else text)."""
    log_level: Annotated[Level, Env("LOG_LEVEL", choice(Level))] = Level.INFO
    """debug, info, warning or error."""
    instance: Annotated[str, Env("INSTANCE_NAME", read.one_line, "billing-1")]
    """Name of this daemon among several. Unset: the host name."""
    warnings: tuple[str, ...] = ()  # what is read, but probably not as it was meant


def walk(branch: type = Settings) -> Iterator[tuple[type, str, Env]]:
    """Go through all variables in the order in which they stand here: the branch and the field of each."""
    for name, hint in get_type_hints(branch, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        yield from ((branch, name, note) for note in notes if isinstance(note, Env))
        for within in (kind, *get_args(kind)):
            if isinstance(within, type) and is_dataclass(within):
                yield from walk(within)


VARIABLES = tuple(variable for _, _, variable in walk())
KNOWN = tuple(variable.name for variable in VARIABLES)
SECRETS = frozenset(variable.name for variable in VARIABLES if isinstance(variable, Secret))
