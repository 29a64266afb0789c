"""What can go wrong with BTCPay, by what the caller should do.

BtcpayAway (Unavailable)        it gave no usable answer; wait and ask again
├── CreationUnknown             an invoice may have been created; look it up by order id before repeating
└── Garbled                     it answered, but not what its API promises
BtcpayDenied (Unavailable)      key or rights are missing; the operator must act, asking again is harmless
BtcpayRefused (Refused)         it understood and said no, in its own words
InvalidResponse (Refused)             a webhook body that is none

The rule it keeps: no message holds the API key, and what the other side wrote is shortened and printable.
"""

from collections.abc import Sequence

from kosmo_billing_daemon.domain.invoices import Observation
from kosmo_billing_daemon.errors import Refused, Unavailable
from kosmo_billing_daemon.runtime.records import record


class BtcpayAway(Unavailable):
    """BTCPay gave no usable answer; ``reached`` is false when no connection was made, so that the request
    certainly did nothing there, ``told_to_wait`` is true when ``retry_after`` is its own request.
    """

    code = "btcpay_away"

    def __init__(self, message: str, *, retry_after: float | None = None, reached: bool = True) -> None:
        super().__init__(message, retry_after=5.0 if retry_after is None else retry_after)
        self.told_to_wait = retry_after is not None
        self.reached = reached


class CreationUnknown(BtcpayAway):
    """The invoice may exist although no answer came: look for its order id before creating again."""

    code = "btcpay_creation_unknown"


class Garbled(BtcpayAway):
    """BTCPay answered something its API does not promise; ``field`` says where.

    From a list, ``readable`` holds what could be read of it and ``order_ids`` whose invoices could not.
    """

    code = "btcpay_garbled"

    def __init__(
        self,
        field: str,
        problem: str,
        *,
        readable: Sequence[Observation] = (),
        order_ids: Sequence[str | None] = (),
    ) -> None:
        super().__init__(f"BTCPay's answer is not understood: {field}: {problem}")
        self.field = field
        self.problem = problem
        self.readable = tuple(readable)
        self.order_ids = tuple(order_ids)


class BtcpayDenied(Unavailable):
    """BTCPay does not accept the key (``unauthenticated``), or it lacks a right, which is named."""

    code = "btcpay_denied"

    def __init__(self, message: str, *, unauthenticated: bool = False) -> None:
        super().__init__(message, retry_after=30.0)
        self.unauthenticated = unauthenticated


@record
class Complaint:
    """One thing BTCPay found wrong: ``path`` is empty where it named none."""

    path: str
    message: str


class BtcpayRefused(Refused):
    """BTCPay understood and said no; ``complaints`` are its words, ``btcpay_code`` its code if any."""

    code = "btcpay_refused"

    def __init__(
        self, status: int, complaints: Sequence[Complaint], *, btcpay_code: str | None = None
    ) -> None:
        said = "; ".join(f"{c.path}: {c.message}" if c.path else c.message for c in complaints)
        super().__init__(f"BTCPay refused ({status}): {said or 'without a reason'}")
        self.status = status
        self.complaints = tuple(complaints)
        self.btcpay_code = btcpay_code


class InvalidResponse(Refused):
    """A webhook body that is not what BTCPay sends."""

    code = "malformed"
