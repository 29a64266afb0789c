"""How many invoices a user may open: each one costs BTCPay addresses and us a row.

A bucket per user holds a minute's worth and refills steadily. Only invoices that are really created
count, so a double click or a repeated request never meets it. Counted per process: several daemons
together allow as many times more, and a restart forgives. What gates send is counted in minutes.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from uuid import UUID

from kosmo_billing_daemon.errors import Refused

MOST_USERS = 100_000
"""Users remembered at once, about 20 MB; the one that asked longest ago is forgotten for the next."""


class TooMany(Refused):
    """The caller asks too often; ``retry_after`` is in whole seconds."""

    code = "too_many_requests"

    def __init__(self, message: str, *, code: str, retry_after: int) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class RateLimit:
    """Allows each user ``per_minute`` creations at once, and as many more per minute.

    ``code`` and ``told`` are what a user gets who asks for more.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        code: str = "too_many_invoices",
        told: str = "too many invoices were opened in a short time; pay one, or wait a little",
        most_users: int = MOST_USERS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._code = code
        self._told = told
        self._interval = 60.0 / per_minute
        self._burst = 60.0
        self._most_users = most_users
        self._monotonic = monotonic
        # When each user's bucket is full again: one number says all there is to know of a bucket.
        self._full_at: OrderedDict[UUID, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, user_id: UUID) -> None:
        """Count one creation; raises ``TooMany`` when the bucket is empty."""
        now = self._monotonic()
        full_at = max(self._full_at.get(user_id, now), now) + self._interval
        over = full_at - now - self._burst
        if over > 1e-6:
            raise TooMany(self._told, code=self._code, retry_after=max(1, math.ceil(over)))
        self._full_at[user_id] = full_at
        self._full_at.move_to_end(user_id)
        while self._full_at and (
            len(self._full_at) > self._most_users or next(iter(self._full_at.values())) <= now
        ):
            self._full_at.popitem(last=False)


class Allowance:
    """At most so many of one name in each minute, and of all names together."""

    def __init__(self, per_name: int, in_all: int) -> None:
        self._per_name, self._in_all = per_name, in_all
        self._since = 0.0
        self._of_names: Counter[str] = Counter()
        self._of_all = 0

    def allows(self, name: str) -> bool:
        """Say whether one more is allowed, and count it against the minute if so."""
        now = time.monotonic()
        if now - self._since >= 60:
            self._since, self._of_all = now, 0
            self._of_names.clear()
        if self._of_names[name] >= self._per_name or self._of_all >= self._in_all:
            return False
        self._of_names[name] += 1
        self._of_all += 1
        return True
