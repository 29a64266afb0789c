"""One frozen tree from the environment: ``load()`` says everything that is wrong at once, in words an
operator can act on, and never prints a secret.
"""

from kosmo_billing_daemon.settings.admin_listen import AdminAddress
from kosmo_billing_daemon.settings.loading import load
from kosmo_billing_daemon.settings.readers import Proxies
from kosmo_billing_daemon.settings.tree import (
    AuthMode,
    Btcpay,
    CreditMode,
    DatabaseSettings,
    Http,
    Jwt,
    Mqtt,
    MqttProtocol,
    Retention,
    Settings,
    Tls,
    WebhookSettings,
    WebhookTrust,
)

__all__ = [
    "AdminAddress",
    "AuthMode",
    "Btcpay",
    "CreditMode",
    "DatabaseSettings",
    "Http",
    "Jwt",
    "Mqtt",
    "MqttProtocol",
    "Proxies",
    "Retention",
    "Settings",
    "Tls",
    "WebhookSettings",
    "WebhookTrust",
    "load",
]
