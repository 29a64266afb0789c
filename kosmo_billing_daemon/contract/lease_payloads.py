"""The JSON payloads of leases; see ``payloads`` for the rules that all keep."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import (
    MAX_ID_LENGTH,
    Fields,
    Malformed,
    dumps,
    dumps_record,
    loads,
)
from kosmo_billing_daemon.contract.payloads import MAX_COUNT
from kosmo_billing_daemon.runtime.records import record

MAX_LEASES = 100  # named in one request
MAX_OPENINGS = 100


class LeaseRefusal(StrEnum):
    """Why no messages were leased."""

    NO_SUBSCRIPTION = "no_subscription"
    UNLIMITED = "unlimited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    LEASED_ELSEWHERE = "leased_elsewhere"
    NOTHING_ASKED = "nothing_asked"
    COPIED = "copied"


@record
class HeldLease:
    """A lease that the gate has, and how many messages it shall have in all: fewer hands the rest back."""

    lease_id: UUID
    messages: int


@record(kw_only=True)
class LeaseRequest:
    """Asks on ``leases/{reporter}`` for ``want`` more messages of a user, and hands back what is not needed.

    ``request_id`` stays the same until an answer comes, so that a question asked twice leases once.
    ``openings`` name each time that the gate's file was opened, from the last one that was answered to the
    present one: so two gates with copies of one file are noticed.
    """

    request_id: str
    user_id: UUID
    want: int
    leases: tuple[HeldLease, ...] = ()
    openings: tuple[str, ...] = ()

    def encode(self) -> bytes:
        held = [{"lease_id": str(lease.lease_id), "messages": lease.messages} for lease in self.leases]
        return dumps(
            {
                "request_id": self.request_id,
                "user_id": str(self.user_id),
                "want": self.want,
                **({"leases": held} if held else {}),
                **({"openings": self.openings} if self.openings else {}),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "LeaseRequest":
        document = loads(payload)
        fields = Fields(document)
        raw = document.get("leases", [])
        if not isinstance(raw, list) or len(raw) > MAX_LEASES or not all(isinstance(i, Mapping) for i in raw):
            raise Malformed(f"leases: a list of at most {MAX_LEASES} objects")
        each = [Fields(item, f"leases[{number}].") for number, item in enumerate(raw)]
        return cls(
            request_id=fields.text("request_id"),
            user_id=fields.uuid("user_id"),
            want=fields.whole("want", most=MAX_COUNT),
            leases=tuple(HeldLease(e.uuid("lease_id"), e.whole("messages", most=MAX_COUNT)) for e in each),
            openings=_openings(fields, document),
        )


def _openings(fields: Fields, document: Mapping[str, object]) -> tuple[str, ...]:
    if "openings" not in document:
        return ()
    names = fields.texts("openings")
    if len(names) > MAX_OPENINGS or not all(0 < len(name) <= MAX_ID_LENGTH for name in names):
        raise Malformed(f"openings: at most {MAX_OPENINGS} names of 1 to {MAX_ID_LENGTH} characters")
    return names


@record(kw_only=True)
class LeaseAnswer:
    """What became of a request, after COMMIT, on ``lease-grants/{reporter}``: a lease, or why none.

    ``at`` is the daemon's time.
    """

    request_id: str
    user_id: UUID
    at: datetime
    lease_id: UUID | None = None
    subscription_id: UUID | None = None
    messages: int = 0
    expires_at: datetime | None = None
    reason: LeaseRefusal | None = None

    def encode(self) -> bytes:
        return dumps_record(self)

    @classmethod
    def decode(cls, payload: bytes) -> "LeaseAnswer":
        fields = Fields(loads(payload))
        return cls(
            request_id=fields.text("request_id"),
            user_id=fields.uuid("user_id"),
            at=fields.time("at"),
            lease_id=fields.optional_uuid("lease_id"),
            subscription_id=fields.optional_uuid("subscription_id"),
            messages=fields.whole("messages", most=MAX_COUNT),
            expires_at=fields.optional_time("expires_at"),
            reason=None if fields.is_null("reason") else fields.one_of("reason", LeaseRefusal),
        )
