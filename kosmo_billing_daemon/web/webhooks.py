"""BTCPay's webhooks: verify, record, answer. What they hint at is looked up by settlement.

BTCPay drops what gets a plain 4xx and stalls its queue behind a 5xx, so everything authentic is
recorded and answered 200, whatever it says; 503 only when nothing could be recorded.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from typing import Literal
from uuid import uuid4

from aiohttp import web

from kosmo_billing_daemon.btcpay import signature
from kosmo_billing_daemon.btcpay.errors import InvalidResponse
from kosmo_billing_daemon.btcpay.payloads import hint
from kosmo_billing_daemon.contract.paths import WEBHOOK
from kosmo_billing_daemon.errors import Forbidden
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.logs import fields
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.settings import WebhookSettings, WebhookTrust
from kosmo_billing_daemon.store.deliveries import Delivery
from kosmo_billing_daemon.web import keys
from kosmo_billing_daemon.web.documents import EXAMPLE_INVOICE, EXAMPLE_ORDER
from kosmo_billing_daemon.web.operations import AWAY, OVERLOADED, WRITING, Answer, Operation, Parameter
from kosmo_billing_daemon.web.problems import request_id
from kosmo_billing_daemon.web.rendering import encode, json_bytes
from kosmo_billing_daemon.web.requests import read_body
from kosmo_billing_daemon.web.server.hosts import require_known

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024


@record(kw_only=True)
class Recorded:
    """The delivery is recorded, and will be looked into."""

    recorded: Literal[True]


@record(kw_only=True)
class Intake:
    """How deliveries are judged: with ``secrets`` they must be signed with one of them."""

    secrets: tuple[bytes, ...]
    keep_claims: bool
    throttle: LogThrottle = field(default_factory=LogThrottle)

    @classmethod
    def of(cls, webhook: WebhookSettings) -> "Intake":
        secrets = tuple(secret.get_secret_value().encode() for secret in webhook.secrets)
        return cls(secrets=secrets, keep_claims=webhook.trust is WebhookTrust.BODY)

    def is_authentic(self, body: bytes, signatures: Sequence[str]) -> bool:
        if not self.secrets:
            return True
        return len(signatures) == 1 and signature.verify(body, signatures[0], self.secrets)

    def delivery(self, body: bytes, now: datetime) -> Delivery:
        """Reduce a body to what it hints at; raises ``InvalidResponse`` if it is unreadable and unsigned."""
        try:
            read = hint(body)
        except InvalidResponse:
            if not self.secrets:
                raise
            return Delivery(
                delivery_id=f"malformed-{hashlib.sha256(body).hexdigest()[:32]}",
                received_at=now,
                type="malformed",
                btcpay_invoice_id=None,
                order_id=None,
                store_id=None,
            )
        return Delivery(
            delivery_id=read.delivery_id or f"unsigned-{uuid4()}",
            received_at=now,
            type=read.type,
            btcpay_invoice_id=read.invoice_id,
            order_id=read.order_id,
            store_id=read.store_id,
            pull_payment_id=read.pull_payment_id,
            claimed_status=(read.claimed_status or read.type.removeprefix("Invoice"))
            if self.keep_claims
            else None,
        )


_RECORDED = encode(Recorded(recorded=True)).encode()

INTAKE = web.AppKey("intake", Intake)


async def _receive(request: web.Request) -> web.Response:
    intake = request.app[INTAKE]
    if intake.keep_claims:  # what the body says is done, so no web page may send one
        require_known(request)
    body = await read_body(request, most=MAX_BODY_BYTES)
    signatures = request.headers.getall(signature.HEADER, [])
    if not intake.is_authentic(body, signatures):
        if intake.throttle.allows("refused"):
            log.warning(
                "webhook refused: its signature is %s; is WEBHOOK_SECRET the secret of BTCPay's webhook?",
                "wrong" if signatures else "missing",
                extra=fields(peer=request.remote, request_id=request_id(request)),
            )
        raise Forbidden(
            "BTCPay-Sig is missing or does not match; check that WEBHOOK_SECRET is the webhook's secret",
            code="bad_signature",
        )
    await request.app[keys.SERVICES].inbox.record(intake.delivery(body, request.app[keys.SERVICES].clock()))
    return json_bytes(_RECORDED)


_DELIVERY = {
    "deliveryId": "PQBaNDwtUuFDTCqmHfSeqR",
    "webhookId": "BvJTkpHXk4LFM8vGLQ8XKz",
    "type": "InvoiceSettled",
    "storeId": "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776",
    "invoiceId": EXAMPLE_INVOICE,
    "metadata": {"orderId": str(EXAMPLE_ORDER)},
}

OPERATIONS = (
    Operation(
        method="post",
        path=WEBHOOK,
        handler=_receive,
        name="receiveWebhook",
        tag="BTCPay",
        summary="BTCPay webhook",
        description="For BTCPay alone. A signed delivery is recorded and answered 200, whatever it says. The "
        "invoice is then read from BTCPay.",
        needs_user=False,
        parameters=(
            Parameter(
                name=signature.HEADER,
                place="header",
                description="sha256= and the HMAC-SHA256 of the body under WEBHOOK_SECRET",
            ),
        ),
        body=dict,
        body_example=_DELIVERY,
        answers={200: Answer("Recorded", Recorded, Recorded(recorded=True))},
        problems=(
            {
                400: {
                    "malformed": "Only where no secret is set: the body is no delivery",
                    "malformed_request": WRITING[400]["malformed_request"],
                },
                403: {
                    "bad_signature": "BTCPay-Sig is missing or wrong; check WEBHOOK_SECRET",
                    "foreign_origin": "Only with WEBHOOK_TRUST=body: a web page sent this",
                },
                408: WRITING[408],
                413: {"body_too_large": "The body is larger than 256 KiB"},
                415: {"unsupported_encoding": "The body has a Content-Encoding"},
                421: {"unknown_host": "Only with WEBHOOK_TRUST=body: Host is not listed in ALLOWED_HOSTS"},
            },
            AWAY,
            OVERLOADED,
        ),
    ),
)
