"""Where database, broker and BTCPay are and what is sold, as the settings say."""

import hmac
import tomllib
from collections.abc import Callable
from pathlib import Path

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue, parse_catalogue
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.link import Broker, Protocol
from kosmo_billing_daemon.runtime.clock import Clock, utc_now
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.settings import CreditMode, Mqtt, Settings, WebhookTrust
from kosmo_billing_daemon.store.postgres import Database, Pool


def read_catalogue(path: Path | None) -> Catalogue:
    """Read the plans for sale; raises ``Misconfigured`` with every problem in the file."""
    if path is None:
        return BUILT_IN
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Misconfigured([f"PLANS_FILE: {path} cannot be read: {error}"]) from error
    return parse_catalogue(document)


def broker_of(mqtt: Mqtt) -> Broker:
    """Return where and as whom to connect; raises ``Misconfigured`` when TLS files cannot be read."""
    try:
        tls = None if mqtt.tls is None else mqtt.tls.context()
    except OSError as error:
        raise Misconfigured([f"MQTT_TLS: {error}"]) from error
    return Broker(
        host=mqtt.host,
        port=mqtt.port,
        client_id=mqtt.client_id,
        username=mqtt.username,
        password=None if mqtt.password is None else mqtt.password.get_secret_value(),
        protocol=Protocol(mqtt.protocol),
        tls=tls,
        keepalive=mqtt.keepalive,
        receive_maximum=200,  # usage reports of up to 128 KiB in memory until they are committed
    )


def database_of(settings: Settings) -> Database:
    """Return where the rows are."""
    return Database(
        url=settings.database.dsn(),
        schema=settings.database.schema,
        most_connections=settings.database.connections,
        reminder_hours=settings.remind_hours[0] if settings.remind_hours else 0,
    )


def links_of(settings: Settings, pool: Pool, clock: Clock = utc_now) -> RenewalLinks:
    """Return the renewal links; their secret follows from the API key, so no setting of its own is needed."""
    secret = settings.btcpay.api_key.get_secret_value().encode()
    return RenewalLinks(
        pool=pool,
        clock=clock,
        key=hmac.digest(secret, b"kosmo-billing renewal links", "sha256"),
        public_url=settings.http.public_url,
    )


def renewals_of(settings: Settings, pool: Pool, clock: Clock = utc_now) -> AutoRenewals:
    """Return renewal from credit, by the catalogue; raises ``Misconfigured`` with every problem in it."""
    return AutoRenewals(
        pool=pool,
        clock=clock,
        catalogue=read_catalogue(settings.plans_file),
        spends=settings.credit is CreditMode.AUTO,
    )


def btcpay_of(settings: Settings, clock: Clock = utc_now) -> BtcpayClient:
    """Return a client of the store; it opens on ``async with``."""
    return BtcpayClient(
        url=settings.btcpay.url,
        api_key=settings.btcpay.api_key.get_secret_value(),
        store_id=settings.btcpay.store_id,
        public_url=settings.btcpay.public_url,
        timeouts=Timeouts(call=settings.btcpay.timeout),
        clock=clock,
    )


def settlement_of(
    settings: Settings,
    pool: Pool,
    btcpay: BtcpayClient,
    clock: Clock = utc_now,
    *,
    changed: Callable[[], None] = lambda: None,
) -> Settlement:
    """Return what settles invoices; without ``changed`` the database's triggers alone wake the daemon."""
    return Settlement(
        pool=pool,
        btcpay=btcpay,
        store_id=settings.btcpay.store_id,
        clock=clock,
        changed=changed,
        trust_body=settings.webhook.trust is WebhookTrust.BODY,
        credit=settings.credit is CreditMode.AUTO,
    )
