"""Leases: messages of a quota that one gate may let through by itself, also while it is cut off.

The rule they keep: what is used and what is leased never exceed the limit together, so any number of gates
that go by leases never oversell. A lease belongs to one subscription. What is reported under it, or handed
back, frees the rest; what a vanished gate held stays taken until it returns, an operator frees it, or the
subscription runs out. A purchase meanwhile carries it over only then, so nobody has it twice.

Use that names no lease is counted as ever, and can exceed.
"""

from collections.abc import Sequence
from dataclasses import replace

from kosmo_billing_daemon.contract.lease_payloads import LeaseRefusal
from kosmo_billing_daemon.runtime.records import record

SHARE = 4
"""One request gets at most this part of what is free, so that the last messages go round among the gates."""

MOST_LEASED = 1000
"""Messages in one lease, whatever was asked: a gate that vanishes takes no more along."""


@record
class Lease:
    """``messages`` in all, of which ``used`` were reported."""

    messages: int
    used: int = 0

    @property
    def outstanding(self) -> int:
        """What the gate may still let through, as far as is known here."""
        return max(0, self.messages - self.used)


@record
class Quota:
    """A subscription that is valid now: its limit, what is used of it, and its leases."""

    limit: int | None
    used: int
    outstanding: int

    @property
    def free(self) -> int:
        """What nobody has used or leased; of a quota that has a limit."""
        return max(0, (self.limit or 0) - self.used - self.outstanding)


def grant(quota: Quota | None, want: int) -> int | LeaseRefusal:
    """Decide how many messages to lease, at least one, or why none."""
    if quota is None:
        return LeaseRefusal.NO_SUBSCRIPTION
    if quota.limit is None:
        return LeaseRefusal.UNLIMITED
    if want <= 0:
        return LeaseRefusal.NOTHING_ASKED
    if quota.free:
        return min(want, MOST_LEASED, max(1, quota.free // SHARE))
    return LeaseRefusal.QUOTA_EXHAUSTED if quota.used >= quota.limit else LeaseRefusal.LEASED_ELSEWHERE


def handed_back(lease: Lease, kept: int) -> Lease:
    """Shrink a lease to ``kept`` messages in all. It never grows, so a repeat, or one that comes late, is
    harmless; what is reported already stays.
    """
    return replace(lease, messages=min(lease.messages, max(kept, lease.used)))


def freed(lease: Lease) -> Lease:
    """Take back what was not reported, for a gate that will not return. If it does, it may have exceeded."""
    return handed_back(lease, 0)


def goes_on(known: Sequence[str], openings: Sequence[str]) -> bool:
    """Say whether a file that was opened in this way is the one that is known, or a new one, and not a copy.

    A file goes on from the opening that is known last. A copy goes on from an earlier one; a file that was
    opened once may be new, unless that opening is known to have been followed by others.
    """
    if not known or known[-1] in openings:
        return True
    return len(openings) == 1 and openings[0] not in known
