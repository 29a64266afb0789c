"""Whether BTCPay answers, for operators: a state to show, and few lines in the log.

The rule it keeps: while it is away one warning a minute, and one line when it is back, whatever the number
of calls that fail; and it is found to be back although nobody has a reason to call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType

from kosmo_billing_daemon.backoff import Quiet
from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.clock import Clock
from kosmo_billing_daemon.errors import KosmoError
from kosmo_billing_daemon.records import record

log = logging.getLogger(__name__)


@record(kw_only=True)
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
        self.calls = 0  # of any outcome

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
        self.calls += 1
        self._denials.pop(call, None)
        for name in [name for name, denial in self._denials.items() if denial.unauthenticated]:
            del self._denials[name]
        self._reached()

    def denied(self, call: str, error: BtcpayDenied) -> None:
        """Note that BTCPay answered, but does not let us do this."""
        self.calls += 1
        self._reached()
        self._denials[call] = error
        self._failures += 1
        self._last_error = error.message
        if self._quiet.allows("denied"):
            log.warning("BTCPay denied a call", extra={"fields": {"call": call, "reason": error.message}})

    def away(self, call: str, error: BtcpayAway) -> None:
        """Note that no usable answer came."""
        self.calls += 1
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


class Vigil:
    """Asks while BTCPay is away, whenever nobody else has for ``every`` seconds, until it is back.

    A daemon that stands by calls it for purchases alone: it would say for hours that BTCPay is away.
    """

    def __init__(self, health: Health, ask: Callable[[], Awaitable[object]], every: float) -> None:
        self._health = health
        self._ask = ask
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def begin(self) -> None:
        """Keep asking from now on, if that is not done already."""
        if not self._is_over and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Ask no more."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while not self._health.state.reachable:
            calls = self._health.calls
            await asyncio.sleep(self._every)
            if calls == self._health.calls:
                with contextlib.suppress(KosmoError):
                    await self._ask()


class Call(AbstractAsyncContextManager[None]):
    """Bounds a call by its deadline, as long as one ``async with``, and notes how it went; no generator."""

    __slots__ = ("_deadline", "_health", "_name", "_seconds", "_vigil")

    def __init__(self, name: str, seconds: float, health: Health, vigil: Vigil) -> None:
        self._name, self._seconds, self._health, self._vigil = name, seconds, health, vigil
        self._deadline = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._deadline.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._deadline.__aexit__(kind, error, trace)
            if isinstance(error, TimeoutError):
                raise error
        except TimeoutError:
            late = BtcpayAway(f"BTCPay did not answer within {self._seconds:g} s")
            self._note(late)
            raise late from None
        self._note(error)

    def _note(self, error: BaseException | None) -> None:
        match error:
            case BtcpayAway():
                self._health.away(self._name, error)
                self._vigil.begin()
            case BtcpayDenied():
                self._health.denied(self._name, error)
            case None | BtcpayRefused():
                self._health.answered(self._name)
