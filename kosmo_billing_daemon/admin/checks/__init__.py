"""What is wrong with the surroundings and how to fix it: each look is one finding, in words to act on.

The rule it keeps: looking changes nobody's rights, and no retained document but our own status and that of
a user who is nobody; no secret is in a finding. Only real publications prove a right, so probes on our topics
can be seen.
"""

from kosmo_billing_daemon.runtime.records import record


@record
class Finding:
    """One look at one part. ``ok`` is ``None`` for what is neither right nor wrong; ``advice`` fixes it."""

    part: str
    ok: bool | None
    fact: str
    advice: str = ""
