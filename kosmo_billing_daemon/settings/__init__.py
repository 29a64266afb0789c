"""One frozen tree from the environment: ``load()`` says everything that is wrong at once, in words an
operator can act on, and never prints a secret.
"""

from kosmo_billing_daemon.settings.admin_listen import AdminAddress
from kosmo_billing_daemon.settings.loading import load
from kosmo_billing_daemon.settings.readers import Proxies
from kosmo_billing_daemon.settings.tree import (
    AuthMode,
    CreditMode,
    Http,
    Jwt,
    Mqtt,
    MqttProtocol,
    Retention,
    Settings,
    WebhookSettings,
    WebhookTrust,
)

__all__ = [
    "AdminAddress",
    "AuthMode",
    "CreditMode",
    "Http",
    "Jwt",
    "Mqtt",
    "MqttProtocol",
    "Proxies",
    "Retention",
    "Settings",
    "WebhookSettings",
    "WebhookTrust",
    "load",
]
