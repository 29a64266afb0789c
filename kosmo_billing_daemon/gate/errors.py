"""What a gate may raise beside programming errors."""

from kosmo_billing_daemon.errors import Unavailable


class NotJournaled(Unavailable):
    """A message was counted in memory but could not be written down yet: the journal holds as many waiting
    messages as it may, or the disk is full, locked or broken.

    The gate keeps it and writes it down as soon as it can; a restart before that forgets it. Recording it
    again with the same id counts nothing twice.
    """

    code = "not_journaled"


class StateInUse(Unavailable):
    """Another process has the state file; two gates with one file would count everything twice."""

    code = "state_in_use"


class StateOfAnother(Unavailable):
    """The state file holds leases of a gate with another name: two that used them would oversell."""

    code = "state_of_another"


class StateUnwritable(Unavailable):
    """The state file cannot be opened for writing: a missing folder, no right, a full or read-only disk."""

    code = "state_unwritable"
