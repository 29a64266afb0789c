"""What a gate may raise beside programming errors."""

from kosmo_billing_daemon.errors import Unavailable


class NotJournaled(Unavailable):
    """A message was counted in memory but could not be written down: after a restart it is forgotten.

    The journal holds as many waiting messages as it may, or the disk is full or broken.
    """

    code = "not_journaled"


class StateInUse(Unavailable):
    """Another process has the state file; two gates with one file would count everything twice."""

    code = "state_in_use"
