"""Whether BTCPay does what we need of it, for operators: a state to show, and few lines in the log.

The rule it keeps: a problem stays until what failed works again, since another call that works proves
nothing about it. There is one warning a minute, and one line when it is over, whatever the number of calls
that fail; and BTCPay is asked although nobody has a reason to call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from types import TracebackType

from kosmo_billing_daemon.btcpay.errors import BtcpayAway, BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.errors import KosmoError
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.runtime.records import record

log = logging.getLogger(__name__)


class CallScope(StrEnum):
    """What a call says something about: its failure, and that it works."""

    CREATE = "create"
    READ = "read"
    READ_ONE = "read one"  # as READ, but a refusal concerns that one invoice
    OTHER = "other"  # what each call by itself is about


@record(kw_only=True)
class BtcpayState:
    """How the last calls went. ``since`` is when ``reachable`` last changed; nothing asked yet counts as
    reachable. ``denied`` and ``refused`` say what the operator must do, ``last_error`` outlives its outage.
    """

    reachable: bool
    since: datetime
    last_error: str | None
    denied: str | None
    refused: str | None = None
    failures: int = 0  # calls without a usable answer, denied or refused, since the start

    @property
    def problem(self) -> str | None:
        """What is wrong at present, if anything is."""
        return self.denied or self.refused or (None if self.reachable else self.last_error)

    def health(self) -> Check:
        return Check.of(self.problem, "reachable")

    def metrics(self) -> dict[str, float]:
        return {
            "btcpay_up": self.reachable,
            "btcpay_denies": self.denied is not None,
            "btcpay_refuses": self.refused is not None,
            "btcpay_errors_total": self.failures,
        }


class Health:
    """Collects the outcome of calls: the last failure of each scope that has not worked since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._throttle = LogThrottle()
        self._failing: dict[str, KosmoError] = {}
        self._reachable = True
        self._since = clock()
        self._last_error: str | None = None
        self._told = False
        self._failures = 0
        self._asked: dict[str, float] = {}

    @property
    def state(self) -> BtcpayState:
        away = self._first(BtcpayAway)
        return BtcpayState(
            reachable=self._reachable,
            since=self._since,
            last_error=away or self._last_error,
            denied=self._first(BtcpayDenied),
            refused=self._first(BtcpayRefused),
            failures=self._failures,
        )

    def may_be_over(self, scope: CallScope) -> bool:
        """Say whether asking tells more: what BTCPay refuses it goes on to refuse until that works."""
        return isinstance(self._failing.get(scope), BtcpayAway | BtcpayDenied)

    def quiet_for(self, scope: CallScope) -> float:
        """Return for how many seconds nobody has called."""
        asked = self._asked.get(scope)
        return float("inf") if asked is None else asyncio.get_running_loop().time() - asked

    def answered(self, call: str, scope: CallScope, *, is_refusal: bool = False) -> None:
        """Note that a call worked, or was refused for reasons of its own: that ends no other refusal."""
        key = self._note(call, scope)
        before = self._failing.get(key)
        if not (is_refusal and isinstance(before, BtcpayRefused)):
            self._failing.pop(key, None)
        for key, error in list(self._failing.items()):
            if isinstance(error, BtcpayAway):
                # What failed together is taken to be over together; a lost connection is nobody's alone.
                is_over = isinstance(before, BtcpayAway) or not error.reached
            else:
                is_over = isinstance(error, BtcpayDenied) and error.unauthenticated
            if is_over:
                del self._failing[key]
        if not self._reachable and not self._first(BtcpayAway):
            self._back()

    def failed(self, call: str, scope: CallScope, error: BtcpayAway | BtcpayDenied | BtcpayRefused) -> None:
        """Note that no usable answer came, or that BTCPay does not let us do this."""
        key = self._note(call, scope)
        self._failures += 1
        self._last_error = error.message
        self._failing[key] = error
        if isinstance(error, BtcpayAway):
            self._away(call, error)
            return
        what = "denied" if isinstance(error, BtcpayDenied) else "refused"
        if self._throttle.allows(what):
            log.warning("BTCPay %s a call", what, extra={"fields": {"call": call, "reason": error.message}})
        if not self._reachable and not self._first(BtcpayAway):
            self._back()

    def _note(self, call: str, scope: CallScope) -> str:
        if scope is CallScope.OTHER:
            return call
        scope = CallScope.READ if scope is CallScope.READ_ONE else scope
        self._asked[scope] = asyncio.get_running_loop().time()
        return scope

    def _first(self, kind: type[KosmoError]) -> str | None:
        return next((error.message for error in self._failing.values() if isinstance(error, kind)), None)

    def _away(self, call: str, error: BtcpayAway) -> None:
        if self._reachable:
            self._reachable = False
            self._since = self._clock()
        if self._throttle.allows("away"):
            self._told = True
            since = self._since.isoformat("T")
            fields = {"call": call, "reason": error.message, "since": since}
            log.warning("BTCPay is away", extra={"fields": fields})

    def _back(self) -> None:
        before, self._since = self._since, self._clock()
        self._reachable = True
        if self._told:
            self._told = False
            seconds = round((self._since - before).total_seconds(), 1)
            log.info("BTCPay is back", extra={"fields": {"away_seconds": seconds}})


@record(kw_only=True)
class Question:
    """A call that shows whether a scope works: asked after ``again`` seconds without a call of that scope
    while it fails, and after ``every`` seconds (``None``: never) while it does not.
    """

    ask: Callable[[], Awaitable[object]]
    every: float | None
    again: float


class Vigil:
    """Asks BTCPay when nobody else does.

    An idle daemon, or one that stands by, would say for hours what the last purchase met.
    """

    def __init__(self, health: Health, questions: Mapping[CallScope, Question]) -> None:
        self._health = health
        self._questions = questions
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Keep asking from now on."""
        self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        tick = min(question.again for question in self._questions.values())
        while True:
            await asyncio.sleep(tick)
            for scope, question in self._questions.items():
                wait = question.again if self._health.may_be_over(scope) else question.every
                # Half a tick less, or the time a call takes would put each off by a whole one.
                if wait is not None and self._health.quiet_for(scope) > wait - tick / 2:
                    with contextlib.suppress(KosmoError):
                        await question.ask()


class Call(AbstractAsyncContextManager[None]):
    """Bounds a call by its deadline, as long as one ``async with``, and notes how it went; no generator."""

    __slots__ = ("_deadline", "_health", "_name", "_scope", "_seconds")

    def __init__(self, name: str, scope: CallScope, seconds: float, health: Health) -> None:
        self._name, self._scope, self._seconds, self._health = name, scope, seconds, health
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
            case BtcpayRefused() if self._scope in (CallScope.CREATE, CallScope.READ):
                self._health.failed(self._name, self._scope, error)
            case BtcpayAway() | BtcpayDenied():
                self._health.failed(self._name, self._scope, error)
            case None | BtcpayRefused():
                self._health.answered(self._name, self._scope, is_refusal=error is not None)
