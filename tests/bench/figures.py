"""What a benchmark found: one figure per round, and rows that sum the rounds up against a goal.

A benchmark is a coroutine ``measure(rounds, *, quick)`` that returns the figures of all its rounds; figures
of the same ``what`` make one row.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """What was promised, of the value or of its ratio to what it is compared with."""

    bound: float
    is_least: bool
    of_ratio: bool = False

    def kept(self, reached: float) -> bool:
        return reached >= self.bound if self.is_least else reached <= self.bound

    def words(self, unit: str) -> str:
        return f"{'≥' if self.is_least else '≤'} {_number(self.bound)} {'x' if self.of_ratio else unit}"


def at_least(bound: float, *, ratio: bool = False) -> Goal:
    return Goal(bound, is_least=True, of_ratio=ratio)


def at_most(bound: float, *, ratio: bool = False) -> Goal:
    return Goal(bound, is_least=False, of_ratio=ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value of one round. ``beside``, in the same unit, was measured in the same round."""

    what: str
    value: float
    unit: str
    beside: float | None = None
    beside_what: str = ""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside if self.beside else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The medians of the rounds of one figure, and how far they lie apart."""

    what: str
    unit: str
    value: float
    least: float
    most: float
    beside: float | None
    beside_what: str
    ratio: float | None
    ratios: Sequence[float]  # of each round
    goal: Goal | None
    rounds: int

    @classmethod
    def of(cls, figures: Sequence[Figure]) -> "Row":
        first = figures[0]
        values = [figure.value for figure in figures]
        besides = [figure.beside for figure in figures if figure.beside is not None]
        ratios = [figure.ratio for figure in figures if figure.ratio is not None]
        return cls(
            what=first.what,
            unit=first.unit,
            value=statistics.median(values),
            least=min(values),
            most=max(values),
            beside=statistics.median(besides) if besides else None,
            beside_what=first.beside_what,
            ratio=statistics.median(ratios) if ratios else None,
            ratios=ratios,
            goal=first.goal,
            rounds=len(figures),
        )

    @property
    def kept(self) -> bool | None:
        """Whether the goal was reached; ``None`` where there is none."""
        if self.goal is None:
            return None
        reached = self.ratio if self.goal.of_ratio else self.value
        return reached is not None and self.goal.kept(reached)

    def document(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "min": self.least,
            "max": self.most,
            "rounds": self.rounds,
            "compared_with": self.beside_what or None,
            "compared_value": self.beside,
            "ratio": self.ratio,
            "ratios": list(self.ratios),
            "goal": None if self.goal is None else self.goal.words(self.unit),
            "kept": self.kept,
        }

    def cells(self) -> tuple[str, ...]:
        compared = "" if self.beside is None else f"{self.beside_what} {_number(self.beside)}"
        return (
            self.what,
            f"{_number(self.value)} {self.unit} ({_number(self.least)} to {_number(self.most)})",
            compared,
            "" if self.ratio is None else _ratio(self.ratio, self.ratios),
            "" if self.goal is None else self.goal.words(self.unit),
            {True: "✓", False: "✗", None: ""}[self.kept],
        )


HEAD = ("what", "measured (min to max)", "compared with", "ratio", "goal", "")


def rows(figures: Iterable[Figure]) -> list[Row]:
    """Sum rounds up, in the order in which the figures came first."""
    grouped: dict[str, list[Figure]] = {}
    for figure in figures:
        grouped.setdefault(figure.what, []).append(figure)
    return [Row.of(group) for group in grouped.values()]


def table(found: Sequence[Row]) -> str:
    """One line per row, columns aligned."""
    lines = [HEAD, *(row.cells() for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text.rstrip() for text in texts)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _ratio(median: float, all_of_them: Sequence[float]) -> str:
    most, least = max(all_of_them), min(all_of_them)
    return f"{median:.2f}" if len(all_of_them) == 1 else f"{median:.2f} ({least:.2f} to {most:.2f})"


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}".removesuffix(".0")
