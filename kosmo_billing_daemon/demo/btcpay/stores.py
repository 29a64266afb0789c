"""Stores, API keys and what a key may do.

The rule it keeps: rights are those of BTCPay Server: a permission may carry a store, a wider one includes the
narrower ones, and a key never reaches a store it was not made for.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from kosmo_billing_daemon.runtime.records import record


class Permission(StrEnum):
    """The permissions the simulated calls ask for."""

    CREATE_INVOICE = "btcpay.store.cancreateinvoice"
    VIEW_INVOICES = "btcpay.store.canviewinvoices"
    MODIFY_INVOICES = "btcpay.store.canmodifyinvoices"
    CREATE_PULL_PAYMENT = "btcpay.store.cancreatenonapprovedpullpayments"
    APPROVE_PULL_PAYMENT = "btcpay.store.cancreatepullpayments"
    ARCHIVE_PULL_PAYMENT = "btcpay.store.canarchivepullpayments"
    VIEW_PULL_PAYMENTS = "btcpay.store.canviewpullpayments"
    MANAGE_PULL_PAYMENTS = "btcpay.store.canmanagepullpayments"
    MODIFY_WEBHOOKS = "btcpay.store.webhooks.canmodifywebhooks"
    VIEW_STORE = "btcpay.store.canviewstoresettings"
    MODIFY_STORE = "btcpay.store.canmodifystoresettings"
    UNRESTRICTED = "unrestricted"


_INCLUDED: dict[str, set[Permission]] = {
    Permission.UNRESTRICTED: set(Permission),
    Permission.MODIFY_STORE: set(Permission) - {Permission.UNRESTRICTED},
    Permission.MODIFY_INVOICES: {Permission.CREATE_INVOICE, Permission.VIEW_INVOICES},
    Permission.MANAGE_PULL_PAYMENTS: {
        Permission.APPROVE_PULL_PAYMENT,
        Permission.CREATE_PULL_PAYMENT,
        Permission.ARCHIVE_PULL_PAYMENT,
        Permission.VIEW_PULL_PAYMENTS,
    },
    Permission.APPROVE_PULL_PAYMENT: {Permission.CREATE_PULL_PAYMENT, Permission.VIEW_PULL_PAYMENTS},
    Permission.CREATE_PULL_PAYMENT: {Permission.VIEW_PULL_PAYMENTS},
    Permission.VIEW_STORE: {Permission.VIEW_INVOICES},
}
"""What a wider permission includes beside itself."""

BILLING_PERMISSIONS: tuple[str, ...] = (
    Permission.CREATE_INVOICE,
    Permission.VIEW_INVOICES,
    Permission.MODIFY_INVOICES,
    Permission.MODIFY_WEBHOOKS,
    Permission.VIEW_STORE,
    Permission.CREATE_PULL_PAYMENT,
    Permission.ARCHIVE_PULL_PAYMENT,
)


@record(kw_only=True)
class SimulatedStore:
    """A store with its settings and the API key made for it."""

    store_id: str
    api_key: str
    permissions: tuple[str, ...] = BILLING_PERMISSIONS
    name: str = "Simulated store"
    default_currency: str = "USD"
    expiration_minutes: int = 15
    monitoring_minutes: int = 1440
    speed_policy: str = "MediumSpeed"
    payment_tolerance: Decimal = Decimal(0)


@dataclass(slots=True)
class ApiKey:
    """One key, with the permissions it carries in each of its stores."""

    key: str
    label: str
    permissions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def allows(self, permission: Permission, store_id: str) -> bool:
        """Tell whether the key carries ``permission``, itself or within a wider one, in that store."""
        for granted in self.permissions.get(store_id, ()):
            name, colon, store = granted.partition(":")
            includes = permission == name or permission in _INCLUDED.get(name, ())
            if includes and (not colon or store == store_id):
                return True
        return False


@dataclass(slots=True)
class Stores:
    """The stores of the server and the keys that open them."""

    by_id: dict[str, SimulatedStore] = field(default_factory=dict)
    keys: dict[str, ApiKey] = field(default_factory=dict)

    def add(self, store: SimulatedStore) -> None:
        self.by_id[store.store_id] = store
        self.add_key(store.api_key, store.store_id, store.permissions)

    def add_key(self, key: str, store_id: str, permissions: tuple[str, ...]) -> None:
        """Give ``key`` these permissions in one store, in place of those it had there."""
        self.keys.setdefault(key, ApiKey(key, "Simulated key")).permissions[store_id] = permissions

    def key_of(self, authorization: str) -> ApiKey | None:
        """Return the key an ``Authorization`` header names, or None."""
        scheme, _, key = authorization.partition(" ")
        return self.keys.get(key.strip()) if scheme.lower() in ("token", "bearer") else None


def key_json(key: ApiKey) -> dict[str, Any]:
    permissions = dict.fromkeys(name for granted in key.permissions.values() for name in granted)
    return {"apiKey": key.key, "label": key.label, "permissions": list(permissions)}


def store_json(store: SimulatedStore) -> dict[str, Any]:
    """Return the store object; the two durations are seconds here."""
    return {
        "id": store.store_id,
        "name": store.name,
        "website": None,
        "supportUrl": None,
        "defaultCurrency": store.default_currency,
        "invoiceExpiration": store.expiration_minutes * 60,
        "monitoringExpiration": store.monitoring_minutes * 60,
        "speedPolicy": store.speed_policy,
        "paymentTolerance": float(store.payment_tolerance),
        "defaultPaymentMethod": "BTC-CHAIN",
        "archived": False,
    }
