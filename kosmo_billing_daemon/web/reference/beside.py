"""The routes beside the API proper: for BTCPay, for whoever reads documents, and for watchers of health."""

from kosmo_billing_daemon.web.documents import Alive, Ready, Recorded
from kosmo_billing_daemon.web.reference import examples
from kosmo_billing_daemon.web.reference.shapes import (
    API,
    AWAY,
    JSON,
    NONE_MATCH,
    OVERLOADED,
    UNCHANGED,
    WRITING,
    Answer,
    Operation,
    Parameter,
    codes,
)

BESIDE: tuple[Operation, ...] = (
    Operation(
        method="post",
        path=f"{API}/webhooks/btcpay",
        name="receiveWebhook",
        tag="BTCPay",
        summary="BTCPay webhook",
        description="For BTCPay alone. What is signed is recorded and answered 200, whatever it says; the "
        "invoice is then looked up at BTCPay.",
        identity=False,
        parameters=(
            Parameter(
                name="BTCPay-Sig",
                place="header",
                description="sha256= and the HMAC-SHA256 of the body under WEBHOOK_SECRET",
                schema={"type": "string"},
            ),
        ),
        body=dict,
        body_example=examples.DELIVERY,
        answers={200: Answer(description="Recorded", kind=Recorded, example=examples.RECORDED)},
        codes=codes(
            {
                400: {
                    "malformed": "Only where no secret is set: the body is no delivery",
                    "malformed_request": "The request broke off or cannot be read",
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
            away=AWAY | OVERLOADED,
        ),
    ),
    *(
        Operation(
            method="get",
            path=f"{API}/{path}",
            name=name,
            tag="Documents",
            summary=summary,
            identity=False,
            parameters=(NONE_MATCH,),
            answers={
                200: Answer(description=summary, kind=kind, media_type=media_type, headers=("ETag",)),
                304: UNCHANGED,
            },
            codes=codes(),
        )
        for path, name, summary, kind, media_type in (
            ("openapi.json", "openapi", "This document", dict, JSON),
            ("asyncapi.json", "asyncapi", "The MQTT contract, AsyncAPI 3.0", dict, JSON),
            ("docs", "docs", "A page to read this document", str, "text/html"),
        )
    ),
    Operation(
        method="get",
        path="/health/live",
        name="live",
        tag="Health",
        summary="Whether the process answers",
        identity=False,
        answers={200: Answer(description="It does", kind=Alive, example=examples.ALIVE)},
        codes=codes(),
    ),
    Operation(
        method="get",
        path="/health/ready",
        name="ready",
        tag="Health",
        summary="Whether requests should come here",
        identity=False,
        answers={
            200: Answer(description="They should", kind=Ready, example=examples.READY),
            503: Answer(description="They should not", kind=Ready, example=examples.UNREADY),
        },
        codes=codes(),
    ),
    Operation(
        method="get",
        path="/metrics",
        name="metrics",
        tag="Health",
        summary="How the daemon is, for Prometheus",
        identity=False,
        answers={200: Answer(description="Metrics as text", kind=str, media_type="text/plain")},
        codes=codes({401: {"unauthenticated": "With METRICS_TOKEN: another bearer token, or none"}}),
    ),
)
