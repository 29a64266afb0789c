"""CSV as spreadsheets read it: what others wrote is never taken for a formula."""

import contextlib
import csv
import io
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

_BEGINS_A_FORMULA: Final = frozenset("=+-@\t\r\n")
_NUMBER: Final = re.compile(r"-\d+(\.\d+)?")


async def written(
    headings: Iterable[object],
    batches: AsyncGenerator[Iterable[T]],
    cells: Callable[[T], Iterable[object]],
) -> AsyncGenerator[str]:
    """Give a list under its headings, batch after batch, of which only one is in memory."""
    head = [headings]
    async with contextlib.aclosing(batches):
        async for batch in batches:
            yield lines([*head, *map(cells, batch)])
            head = []
    if head:
        yield lines(head)


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of CSV; ``None`` is an empty cell."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerows([["" if cell is None else _harmless(str(cell)) for cell in row] for row in rows])
    return written.getvalue()


def _harmless(cell: str) -> str:
    """Keep a spreadsheet from taking words for a formula; a number is none."""
    return f"'{cell}" if cell[:1] in _BEGINS_A_FORMULA and not _NUMBER.fullmatch(cell) else cell
