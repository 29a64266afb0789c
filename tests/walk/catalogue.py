"""What a town sells, which changes while its daemons are down."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from typing import Any, Self

_SCOPES = {"wanderer": "any_node", "guardian": "whitelist", "sanctuary": "any_node"}


@dataclass(frozen=True)
class Offer:
    """A plan, or a pack, which fits plans; ``messages`` of ``None`` are unlimited."""

    name: str
    price: Decimal
    messages: int | None
    days: int
    fits: tuple[str, ...] = ()
    currency: str = "USD"

    @classmethod
    def of(cls, row: Any) -> Self:
        """The quote of a row."""
        fits = tuple(row["fits"])
        return cls(row["plan_type"], row["amount"], row["quota"], row["period"].days, fits, row["currency"])

    @property
    def toml(self) -> str:
        messages = '"unlimited"' if self.messages is None else self.messages
        lines = [f'price = "{self.price}"', f"messages = {messages}"]
        if self.fits:
            return "\n".join([f"[packs.{self.name}]", *lines, f"plans = {list(self.fits)}"])
        more = [f"period_days = {self.days}", f'scope = "{_SCOPES[self.name]}"', "features = []"]
        return "\n".join([f"[plans.{self.name}]", *lines, f'currency = "{self.currency}"', *more])


_PRICES = {
    "USD": ["2.50", "5.00", "8.00", "13.37", "50.00"],
    "EUR": ["2.50", "5.00", "8.00", "13.37", "50.00"],
    # A currency without a smaller unit.
    "JPY": ["250", "500", "800", "1337", "5000"],
}

_FIRST = (
    Offer("wanderer", Decimal("5.00"), 50, 30),
    Offer("guardian", Decimal("12.00"), 500, 30),
    Offer("sanctuary", Decimal("50.00"), None, 30),
    Offer("extra", Decimal("4.00"), 50, 0, ("wanderer", "guardian")),
)


@dataclass
class Assortment:
    """What is sold now, and whatever was sold before."""

    now: dict[str, Offer] = field(default_factory=lambda: {offer.name: offer for offer in _FIRST})
    ever: set[Offer] = field(default_factory=lambda: set(_FIRST))

    @property
    def plans(self) -> list[str]:
        return [offer.name for offer in self.now.values() if not offer.fits]

    @property
    def packs(self) -> list[str]:
        return [offer.name for offer in self.now.values() if offer.fits]

    @property
    def toml(self) -> str:
        return "\n\n".join(offer.toml for offer in self.now.values()) + "\n"

    def change(self, chance: Random) -> str:
        """Change one thing of one offer, or the currency of all, and say what."""
        old = chance.choice(list(self.now.values()))
        what = chance.choice(["price", "currency", "messages", "fits" if old.fits else "days"])
        if what == "currency":
            return self.change_currency(chance, chance.choice(sorted(_PRICES)))
        new = old
        if what == "price":
            new = replace(old, price=Decimal(chance.choice(_PRICES[old.currency])))
        elif what == "messages" and old.messages is not None:
            new = replace(old, messages=chance.choice([20, 50, 75, 500]))
        elif what == "days":
            new = replace(old, days=chance.choice([10, 30, 45]))
        elif what == "fits":
            fits = chance.choice([("wanderer",), ("guardian",), ("wanderer", "guardian")])
            new = replace(old, fits=fits)
        self.now[new.name] = new
        self.ever.add(new)
        gives = f"{new.messages} messages, {new.days} days, fits {new.fits}"
        return f"{new.name} costs {new.price} {new.currency} for {gives}"

    def change_currency(self, chance: Random, currency: str) -> str:
        """Sell everything in a currency; a catalogue has one."""
        for old in list(self.now.values()):
            price = Decimal(chance.choice(_PRICES[currency]))
            self.now[old.name] = replace(old, price=price, currency=currency)
        self.ever |= set(self.now.values())
        return f"prices are in {currency}: {[str(offer.price) for offer in self.now.values()]}"
