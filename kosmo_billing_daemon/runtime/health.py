"""How one part of the daemon is; each part says it of itself, in ``health()``."""

from kosmo_billing_daemon.runtime.records import record


@record
class Check:
    """One part: whether it is well, and its state in a few words."""

    ok: bool
    detail: str

    @classmethod
    def of(cls, problem: str | None, well: str) -> "Check":
        """Say what is wrong, or in a word that nothing is."""
        return cls(problem is None, problem or well)
