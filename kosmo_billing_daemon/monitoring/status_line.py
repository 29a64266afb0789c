"""The state in one line, as systemd shows it."""

import asyncio
from collections.abc import Awaitable, Callable

from kosmo_billing_daemon.runtime.backoff import Backoff
from kosmo_billing_daemon.web.health import Readiness

EVERY = 5.0  # seconds between looks at the state


async def keep_reporting(
    readiness: Callable[[], Awaitable[Readiness]], leads: Callable[[], bool], report: Callable[[str], None]
) -> None:
    """Call ``report`` with each new line, until cancelled."""
    reported, backoff = "", Backoff(0.05, EVERY)
    while True:
        state = await readiness()
        line = describe(state, leads=leads())
        if line != reported:
            report(line)
            reported = line
        # Often after a start and a change for the worse, so that "unready" ends when it ends.
        if state.status == "ready":
            backoff.succeeded()
            await asyncio.sleep(EVERY)
        else:
            await asyncio.sleep(backoff.failed())


def describe(readiness: Readiness, *, leads: bool) -> str:
    """Return one line for systemd's STATUS and for people."""
    failing = [f"{name}: {check.detail}" for name, check in readiness.checks.items() if not check.ok]
    role = "leads" if leads else "stands by"
    return f"{readiness.status}, {role}" + (f" ({'; '.join(failing)})" if failing else "")
