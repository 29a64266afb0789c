"""Small charts as SVG: where each bar goes. Words and a table beside them say the same."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final

from kosmo_billing_daemon.runtime.records import record

WIDTH: Final = 720
HEIGHT: Final = 200
LEFT: Final = 52
BOTTOM: Final = 22
TOP: Final = 10
RIGHT: Final = 16
COLOURS: Final = 5
_ROUND: Final = (1, 2, 5)
_GAP: Final = 0.28  # of the room for a bar
_NONE: Final = Decimal(0)


@record
class Bar:
    """One piece of a stacked bar, in units of the view box."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    label: str


@record
class Tick:
    """A line across, or a day below, and what stands there."""

    at: float
    label: str


@record(kw_only=True)
class StackedBars:
    """A chart of days: pieces by name, and lines at round numbers."""

    bars: Sequence[Bar]
    lines: Sequence[Tick]
    days: Sequence[Tick]
    names: Sequence[str]
    highest: Decimal

    def colour_of(self, name: str) -> int:
        return self.names.index(name) % COLOURS + 1


def stacked(since: date, days: int, amounts: Mapping[tuple[date, str], Decimal], unit: str) -> StackedBars:
    """Place the amounts of each day one above the other; what is below zero has no bar."""
    names = sorted({name for _, name in amounts})
    dates = [since + timedelta(days=number) for number in range(days)]
    pieces = [[max(amounts.get((day, name), _NONE), _NONE) for name in names] for day in dates]
    highest = max((sum(each, _NONE) for each in pieces), default=_NONE)
    top, steps = _scale(highest)
    room = (WIDTH - LEFT - RIGHT) / days
    tall = HEIGHT - BOTTOM - TOP
    bars: list[Bar] = []
    for number, day in enumerate(dates):
        base = _NONE
        for place, (name, amount) in enumerate(zip(names, pieces[number], strict=True)):
            if amount:
                height = float(amount / top) * tall
                y = HEIGHT - BOTTOM - float(base / top) * tall - height
                label = f"{day:%Y-%m-%d} {name}: {amount.normalize():f} {unit}"
                x = LEFT + room * (number + _GAP / 2)
                bars.append(
                    Bar(
                        round(x, 2),
                        round(y, 2),
                        round(room * (1 - _GAP), 2),
                        round(height, 2),
                        place % COLOURS + 1,
                        label,
                    )
                )
                base += amount
    lines = [
        Tick(round(HEIGHT - BOTTOM - float(step / top) * tall, 2), f"{step:,.{_digits(top)}f}")
        for step in steps
    ]
    shown = [
        Tick(round(LEFT + room * (number + 0.5), 2), f"{dates[number]:%-d %b}")
        for number in range(days - 1, -1, -7)
    ]
    return StackedBars(bars=bars, lines=lines, days=shown[::-1], names=names, highest=highest)


def _scale(highest: Decimal) -> tuple[Decimal, list[Decimal]]:
    """Return the top of the scale and two to five round steps up to it."""
    if highest <= 0:
        return Decimal(1), [Decimal(0)]
    power = Decimal(1).scaleb(highest.adjusted() - 1)
    step = next(
        step
        for exponent in range(3)
        for factor in _ROUND
        if (step := power.scaleb(exponent) * factor) * 4 >= highest
    )
    count = int((highest / step).to_integral_value(ROUND_CEILING))
    return step * count, [step * place for place in range(count + 1)]


def _digits(top: Decimal) -> int:
    return 0 if top >= 4 else min(8, 1 - top.adjusted())
