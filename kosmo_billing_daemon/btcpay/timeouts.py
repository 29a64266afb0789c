"""How long calls to BTCPay may take."""

from typing import Final

from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class Timeouts:
    """Seconds: to connect, for a whole call with its retry, and for a creation (15 s ones are on record);
    ``again`` is how long nobody read from a BTCPay with a problem until it is asked whether that is over,
    ``idle`` the same for one without. ``lull`` is how long nobody bought after a creation that failed until
    the creation of nothing is tried.
    """

    connect: float = 3.0
    call: float = 15.0
    create: float = 30.0
    again: float = 15.0
    idle: float = 60.0
    lull: float = 60.0


DEFAULT_TIMEOUTS: Final = Timeouts()
