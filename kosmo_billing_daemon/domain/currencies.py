"""How finely each currency is counted: what BTCPay rounds an amount to, and what we round up to.

National currencies are those of ISO 4217 (the package ``iso4217`` carries its table), as in BTCPay's own
list; beside them stand the few others that BTCPay prices in.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from functools import cache

import iso4217

_OTHERS = {"BTC": 8, "LBTC": 8, "LTC": 8, "SATS": 0, "USDT": 8, "XMR": 12}
"""Digits of currencies that no state issues (``divisibility`` in BTCPay's Currencies.json)."""

_WIDE = Context(prec=120)
"""More digits than any amount has that BTCPay can name."""


def digits(currency: str) -> int | None:
    """Return the digits after the point, or ``None`` for what no price can be set in."""
    if currency in _OTHERS:
        return _OTHERS[currency]
    # Gold, testing codes and the like have "N.A." there.
    known = str(iso4217.raw_table.get(currency, {}).get("CcyMnrUnts"))
    return int(known) if known.isdigit() else None


@cache
def smallest_unit(currency: str) -> Decimal:
    """Return the unit to which BTCPay rounds an amount of that currency."""
    known = digits(currency)
    return Decimal(1).scaleb(-2 if known is None else -known)


def rounded_up(amount: Decimal, currency: str) -> Decimal:
    """Return the least amount that can be asked for and is no less than this."""
    return amount.quantize(smallest_unit(currency), ROUND_CEILING, _WIDE)


def rounded_down(amount: Decimal, currency: str) -> Decimal:
    """Return the greatest amount that can be paid out and is no more than this."""
    return amount.quantize(smallest_unit(currency), ROUND_FLOOR, _WIDE)


def nearest(amount: Decimal, currency: str) -> Decimal:
    """Return the amount that can be paid and is nearest to this."""
    return amount.quantize(smallest_unit(currency), ROUND_HALF_EVEN, _WIDE)
