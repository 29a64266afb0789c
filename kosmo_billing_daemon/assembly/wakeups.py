"""Who is woken by what. Whoever changed something calls a method here, and knows none of the parts."""

from collections.abc import Callable
from dataclasses import dataclass

Wake = Callable[[], None]


def _nobody() -> None:
    """Stand for a part that is not built yet."""


@dataclass(slots=True)
class Wakeups:
    """The parts that wait for changes; each is assigned by whoever builds it.

    ``is_ours`` tells by the process id of a database session whether it is one of this process.
    """

    is_ours: Callable[[int], bool]
    publish: Wake = _nobody
    settle: Wake = _nobody
    inquire: Wake = _nobody
    expire: Wake = _nobody
    recount: Wake = _nobody
    stream: Wake = _nobody
    send_hooks: Wake = _nobody

    def hinted(self) -> None:
        """A webhook was recorded."""
        self.settle()
        self.inquire()

    def changed(self) -> None:
        """Rights or invoices changed in this process: publish, and look at the timers again."""
        self.publish()
        self.expire()
        self.stream()

    def counted(self) -> None:
        """Usage was counted in this process: no subscription ends sooner by it, unless it came late."""
        self.publish()
        self.recount()
        self.stream()

    def notified(self, payload: str, sender: int) -> None:
        """Rows changed, says the database; an empty payload says that anything may have.

        What a session of ours changed is known since its commit.
        """
        if payload in ("", "hooks"):  # queued by a trigger, of which no session knows
            self.send_hooks()
        if payload == "hooks" or self.is_ours(sender):
            return
        if payload != "entitlements":
            self.hinted()
        if payload != "deliveries":
            self.changed()
            self.recount()  # a gateway that counts by SQL may have counted late
