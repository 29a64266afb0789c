"""What a gate answers and the compact record it answers from: no input or output, a few dictionary lookups.

A record holds what the last document left to decide at the time of asking. So rights end at their time
with daemon and broker both away, and no clock but the gate's own is asked.
"""

from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from kosmo_billing_daemon.contract.encoding import Malformed
from kosmo_billing_daemon.contract.payloads import EntitlementDocument, Scope, Standing
from kosmo_billing_daemon.runtime.records import record


class Reason(StrEnum):
    """Why a message may pass or not; the values are part of the contract with gateways and bridges."""

    OK = "ok"
    NO_PLAN = "no_plan"
    EXPIRED = "expired"
    REVOKED = "revoked"
    NODE_NOT_ALLOWED = "node_not_allowed"
    QUOTA_EXHAUSTED = "quota_exhausted"
    UNKNOWN_USER = "unknown_user"
    NO_LEASE = "no_lease"


@record
class Decision:
    """The answer about one message; true in a condition exactly when allowed.

    ``remaining`` is how many messages are left, this one included; ``None`` is unlimited. Where the answer is
    no it is 0, save for ``quota_exhausted`` when fewer than the asked ``count`` are left.
    """

    allowed: bool
    reason: Reason
    remaining: int | None

    def __bool__(self) -> bool:
        return self.allowed


_REFUSED: dict[Reason, Decision] = {
    reason: Decision(False, reason, 0) for reason in Reason if reason is not Reason.OK
}
_UNLIMITED = Decision(True, Reason.OK, None)
UNKNOWN_USER = _REFUSED[Reason.UNKNOWN_USER]
NO_LEASE = _REFUSED[Reason.NO_LEASE]
_EXPIRED = _REFUSED[Reason.EXPIRED]
_NODE_NOT_ALLOWED = _REFUSED[Reason.NODE_NOT_ALLOWED]


_ALLOWED: dict[int, Decision] = {}
_MOST_ALLOWED = 4096


def allowed(remaining: int) -> Decision:
    """Make the answer once: that costs more than all the rest of a check, and lru_cache a tenth."""
    if len(_ALLOWED) >= _MOST_ALLOWED:
        _ALLOWED.clear()
    return _ALLOWED.setdefault(remaining, Decision(True, Reason.OK, remaining))


@lru_cache(4096)
def _exhausted(remaining: int) -> Decision:
    return Decision(False, Reason.QUOTA_EXHAUSTED, remaining)


class UserEntry:
    """One user's rights in about 400 bytes, whole numbers and epoch seconds instead of ids and times.

    ``own`` counts this gate's messages that ``used`` does not include yet (see ``ledger``); ``seen`` is the
    number of the connection that brought or confirmed it.
    """

    __slots__ = (
        "ends",
        "limit",
        "nodes",
        "own",
        "refusal",
        "seen",
        "subscription",
        "used",
        "valid_from",
        "version",
    )

    def __init__(  # noqa: PLR0917  100,000 are made at start: keywords cost
        self,
        version: int,
        refusal: Reason | None,
        nodes: frozenset[str] | None,
        limit: int | None,
        used: int,
        subscription: int | None,
        valid_from: float,
        ends: float,
    ) -> None:
        self.version = version
        self.refusal = None if refusal is None else _REFUSED[refusal]
        self.nodes = nodes
        self.limit = limit
        self.used = used
        self.subscription = subscription
        self.valid_from = valid_from
        self.ends = ends
        self.own = 0
        self.seen = 0

    def decide(self, node_id: str, count: int, now: float) -> Decision:
        """Answer for ``count`` messages to ``node_id``, in lower case, at ``now`` (epoch seconds)."""
        if self.refusal is not None:
            return self.refusal
        if now >= self.ends:
            return _EXPIRED
        if self.nodes is not None and node_id not in self.nodes:
            return _NODE_NOT_ALLOWED
        if self.limit is None:
            return _UNLIMITED
        remaining = self.limit - self.used - self.own
        if remaining >= count:
            try:
                return _ALLOWED[remaining]
            except KeyError:
                return allowed(remaining)
        return _exhausted(max(remaining, 0))


def entry_of(document: EntitlementDocument) -> UserEntry:
    """Compress a document; rights without an end are ``Malformed``, since every document carries its own."""
    refusal: Reason | None = None
    ends = _seconds(document.grace_until or document.valid_until)
    match document.status:
        case Standing.ACTIVE | Standing.GRACE:
            if document.scope is Scope.NONE:
                refusal = Reason.NO_PLAN
            elif not ends:
                raise Malformed("valid_until: rights need an end")
        case Standing.EXPIRED:
            refusal = Reason.EXPIRED
        case Standing.REVOKED:
            refusal = Reason.REVOKED
        case Standing.NONE:
            refusal = Reason.NO_PLAN
    nodes = None
    if document.scope is Scope.WHITELIST:
        nodes = frozenset(node.lower() for node in document.allowed_nodes)
    return UserEntry(
        version=document.version,
        refusal=refusal,
        nodes=nodes,
        limit=document.messages_limit,
        used=document.messages_used,
        subscription=None if document.subscription_id is None else document.subscription_id.int,
        valid_from=_seconds(document.valid_from),
        ends=ends,
    )


def _seconds(time: datetime | None) -> float:
    return 0.0 if time is None else time.timestamp()
