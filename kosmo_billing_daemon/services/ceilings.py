"""How much a gateway may report: far more than a mesh carries, and far less than a broken counter or a stolen
account can invent.

A minute is one of arrival. A gateway that was away may send what it kept: as many minutes as its times of
sending span, since those only advance. What was refused is not counted, so its sender may try again.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat

from kosmo_billing_daemon.contract.usage_columns import UsageColumns

MINUTE = 60
MOST_KEPT = 1000  # reporters; beyond that, those whose minute is over are forgotten


@dataclass(slots=True)
class _Window:
    """What one reporter counted in the minute that began at ``since`` (monotonic)."""

    since: float
    minute: int  # of sending, since the epoch
    counts: dict[str, int] = field(default_factory=dict)


class Ceilings:
    """``messages`` of one user and ``users`` that one reporter may count in a minute."""

    def __init__(self, messages: int, users: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._messages = messages
        self._users = users
        self._monotonic = monotonic
        self._windows: dict[str, _Window] = {}

    def refusal(self, reporter: str, columns: UsageColumns, now: datetime) -> str | None:
        """Count a report, or say why it is too much."""
        window = self._window(reporter)
        latest = int(now.timestamp()) // MINUTE
        minute, counts = window.minute, window.counts
        added: list[tuple[dict[str, int], str, int]] = []
        for user, number, at in zip(columns.user_id, columns.count, _minutes(columns, latest), strict=True):
            if at > minute:
                minute, counts = at, {}
            counts[user] = total = counts.get(user, 0) + number
            added.append((counts, user, number))
            if total > self._messages or len(counts) > self._users:
                for of, who, counted in added:
                    of[who] -= counted
                    if not of[who]:
                        del of[who]
                if total > self._messages:
                    return (
                        f"{total} messages of user {user} in one minute, of which {self._messages} are"
                        " allowed (USAGE_MESSAGES_PER_MINUTE)"
                    )
                return f"more than {self._users} users in one minute (USAGE_USERS_PER_MINUTE)"
        window.minute, window.counts = minute, counts
        return None

    def _window(self, reporter: str) -> _Window:
        now = self._monotonic()
        window = self._windows.get(reporter)
        if window is None:
            if len(self._windows) >= MOST_KEPT:
                over = [name for name, old in self._windows.items() if now - old.since >= MINUTE]
                for name in over:
                    del self._windows[name]
            window = self._windows[reporter] = _Window(now, 0)
        elif now - window.since >= MINUTE:
            window.since, window.counts = now, {}
        return window


def _minutes(columns: UsageColumns, latest: int) -> Iterable[int]:
    """The minute of sending of each event, none in the future; for the usual report that is one for all."""
    if not columns:
        return ()
    first, last = (int(at(columns.sent_at).timestamp()) // MINUTE for at in (min, max))
    if first == last:
        return repeat(min(last, latest), len(columns))
    return (min(int(sent_at.timestamp()) // MINUTE, latest) for sent_at in columns.sent_at)
