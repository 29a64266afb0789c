"""The failures a test or a demonstration can switch on.

The rule it keeps: everything off is the default, a change names only what it changes, and chance comes from a
seed, so that a run can be repeated.
"""

from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any

from kosmo_billing_daemon.demo.btcpay.reading import RequestReader
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class WebhookFaults:
    """What goes wrong with webhook deliveries; ``drop`` is a probability."""

    drop: float = 0.0
    duplicate: bool = False
    reorder: bool = False
    delay_ms: int = 0
    hold: bool = False


@record(kw_only=True)
class Faults:
    """What goes wrong with the HTTP API; ``error_rate`` is the probability of a 500.

    A proxy in front answers ``proxy_status`` (0: it is none) in HTML, to creations alone if it blocks those.
    """

    down: bool = False
    slow_ms: int = 0
    error_rate: float = 0.0
    seed: int = 0
    create_times_out: bool = False
    garbage: bool = False
    unauthorized: bool = False
    no_wallet: bool = False
    proxy_status: int = 0
    proxy_blocks_creations: bool = False
    webhooks: WebhookFaults = field(default_factory=WebhookFaults)


def merge(faults: Faults, changes: Mapping[str, Any]) -> Faults:
    """Return ``faults`` with ``changes`` applied; a wrong name or value is refused with 422."""
    reader = RequestReader()
    hooks = changes.get("webhooks", {})
    if not isinstance(hooks, Mapping):
        reader.wrong("webhooks", "must be an object")
        hooks = {}
    changed = _checked(hooks, faults.webhooks, "webhooks.", reader, rates=("drop",))
    rest = {name: value for name, value in changes.items() if name != "webhooks"}
    values = _checked(rest, faults, "", reader, rates=("error_rate",))
    reader.finish()
    return replace(faults, webhooks=replace(faults.webhooks, **changed), **values)


def _checked(
    changes: Mapping[str, Any],
    current: Faults | WebhookFaults,
    prefix: str,
    reader: RequestReader,
    *,
    rates: tuple[str, ...],
) -> dict[str, Any]:
    known = {item.name for item in fields(current)} - {"webhooks"}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            reader.wrong(prefix + name, f"unknown; known are {', '.join(sorted(known))}")
        elif name in rates:
            if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
                reader.wrong(prefix + name, "must be a boolean or a number from 0 to 1")
            else:
                values[name] = float(value)
        elif isinstance(getattr(current, name), bool) != isinstance(value, bool):
            reader.wrong(prefix + name, "must be a boolean or an integer, like its present value")
        elif not isinstance(value, int) or value < 0:
            reader.wrong(prefix + name, "must be an integer, 0 or more")
        else:
            values[name] = value
    return values
