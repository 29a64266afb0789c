"""The settings as the parts receive them: frozen branches, checked, with secrets that do not print.

Each part is given its branch alone, so what a part may know is visible where it is built.
"""

import ssl
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from kosmo_billing_daemon.runtime.logs import Format, Level

Network = IPv4Network | IPv6Network


class WebhookTrust(StrEnum):
    """What counts as the fact when a webhook arrives."""

    BTCPAY = "btcpay"  # the invoice fetched from BTCPay
    BODY = "body"  # what the request says; for local trials


class MqttProtocol(StrEnum):
    V5 = "5"
    V311 = "3.1.1"


class AuthMode(StrEnum):
    """How a request names its user."""

    HEADER = "header"  # X-User-ID, from trusted proxies
    JWT = "jwt"  # a signed bearer token


@dataclass(frozen=True, slots=True, kw_only=True)
class Btcpay:
    """``url`` is where we reach BTCPay, ``public_url`` where customers do; both without a final slash."""

    url: str
    api_key: SecretStr
    store_id: str
    public_url: str | None = None
    invoice_expiration: timedelta | None = None  # None: the store's own setting
    timeout: float = 15.0  # seconds for one call


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """``secrets``: none, one, or the present one and the one it replaces."""

    secrets: tuple[SecretStr, ...] = ()
    trust: WebhookTrust = WebhookTrust.BTCPAY
    public_url: str | None = None  # where BTCPay reaches us


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """``url`` as the operator wrote it; connect with ``dsn()``. ``ignored`` says what of it has no effect."""

    url: SecretStr
    password: SecretStr | None = None
    ignored: tuple[str, ...] = ()
    schema: str = "public"
    connections: int = 10

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

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files; raises ``OSError`` or ``ssl.SSLError`` (an ``OSError`` too)."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            # With a password of our own OpenSSL fails on an encrypted key instead of asking the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: SecretStr | None = None
    client_id: str = "kosmo-billing"
    prefix: str = "kosmo/billing/v1"
    protocol: MqttProtocol = MqttProtocol.V5
    tls: Tls | None = None
    keepalive: int = 10  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """How bearer tokens are checked; exactly one of ``jwks_url`` and ``key_file`` is given."""

    jwks_url: str | None = None
    key_file: Path | None = None
    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    claim: str = "sub"
    leeway: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """``port`` 0 takes any free one; ``jwt`` is there exactly when ``auth_mode`` is jwt."""

    host: str = "127.0.0.1"
    port: int = 8004
    auth_mode: AuthMode = AuthMode.HEADER
    trusted_proxies: tuple[Network, ...]
    trust_unix_sockets: bool = True  # a peer over a unix socket is a trusted proxy
    allowed_hosts: frozenset[str] = frozenset()  # lower case; empty: what no stranger's page can say
    cors_origins: tuple[str, ...] = ()  # as browsers send them; ("*",) is every origin
    redirect_hosts: frozenset[str] = frozenset()  # lower case; empty: any
    jwt: Jwt | None = None
    invoice_rate: int = 10  # new invoices per user: so many at once, and so many more per minute
    stream_beat: float = 15.0  # seconds between signs of life on live streams
    metrics_token: SecretStr | None = None  # None: whoever reaches the port may read /metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long finished rows are kept."""

    deliveries: timedelta = timedelta(days=60)
    usage: timedelta = timedelta(days=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the operator may decide."""

    btcpay: Btcpay
    webhook: WebhookSettings
    database: DatabaseSettings
    mqtt: Mqtt
    http: Http
    retention: Retention
    instance: str  # names this daemon among several, in logs and in the status document
    plans_file: Path | None = None  # None: the built-in catalogue
    expiring_notice: timedelta = timedelta(hours=72)
    log_format: Format = Format.AUTO
    log_level: Level = Level.INFO
    warnings: tuple[str, ...] = ()  # what is read, but probably not as it was meant
