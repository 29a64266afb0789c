"""Whether BTCPay answers, for operators: a state to show, and few lines in the log.

The rule it keeps: while it is away one warning a minute, and one line when it is back, whatever the number
of calls that fail.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from kosmo_billing_daemon.backoff import Quiet
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied
from kosmo_billing_daemon.clock import Clock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the last calls went. ``since`` is when ``reachable`` last changed; nothing asked yet counts as
    reachable. ``denied`` says what the operator must mend, ``last_error`` outlives its outage.
    """

    reachable: bool
    since: datetime
    last_error: str | None
    denied: str | None
    failures: int = 0  # calls without a usable answer, or denied, since the start


class Health:
    """Collects the outcome of calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quiet = Quiet()
        self._reachable = True
        self._since = clock()
        self._last_error: str | None = None
        self._denials: dict[str, BtcpayDenied] = {}
        self._told = False
        self._failures = 0

    @property
    def state(self) -> State:
        denied = next(iter(self._denials.values()), None)
        return State(
            reachable=self._reachable,
            since=self._since,
            last_error=self._last_error,
            denied=None if denied is None else denied.message,
            failures=self._failures,
        )

    def answered(self, call: str) -> None:
        """Note that a call worked, or was refused in BTCPay's own words."""
        self._denials.pop(call, None)
        for name in [name for name, denial in self._denials.items() if denial.unauthenticated]:
            del self._denials[name]
        self._reached()

    def denied(self, call: str, error: BtcpayDenied) -> None:
        """Note that BTCPay answered, but does not let us do this."""
        self._reached()
        self._denials[call] = error
        self._failures += 1
        self._last_error = error.message
        if self._quiet.allows("denied"):
            log.warning("BTCPay denied a call", extra={"fields": {"call": call, "reason": error.message}})

    def away(self, call: str, error: BtcpayAway) -> None:
        """Note that no usable answer came."""
        self._failures += 1
        self._last_error = error.message
        if self._reachable:
            self._reachable = False
            self._since = self._clock()
        if self._quiet.allows("away"):
            self._told = True
            log.warning(
                "BTCPay is away",
                extra={
                    "fields": {"call": call, "reason": error.message, "since": self._since.isoformat("T")}
                },
            )

    def _reached(self) -> None:
        if self._reachable:
            return
        before, self._since = self._since, self._clock()
        self._reachable = True
        if self._told:
            self._told = False
            seconds = round((self._since - before).total_seconds(), 1)
            log.info("BTCPay is back", extra={"fields": {"away_seconds": seconds}})
