"""The events there are."""

from typing import Final

EVENT_TYPES: Final = (
    "subscription.activated",
    "subscription.renewed",
    "subscription.changed",
    "subscription.expiring",
    "subscription.expired",
    "subscription.revoked",
    "quota.warning",
    "quota.exhausted",
    "quota.reset",
    "invoice.created",
    "invoice.processing",
    "invoice.settled",
    "invoice.expired",
    "invoice.invalid",
    "invoice.needs_attention",
    "billing.degraded",
    "billing.recovered",
    "hook.off",
)
