"""The routes of a purchase: plans and invoices."""

from kosmo_billing_daemon.web.documents import (
    MAX_KEY_LENGTH,
    SHOWN_STATUSES,
    InvoiceDocument,
    InvoicePage,
    InvoiceRequest,
    PlanDocument,
)
from kosmo_billing_daemon.web.reference import examples
from kosmo_billing_daemon.web.reference.shapes import (
    API,
    AWAY,
    BTCPAY,
    NONE_MATCH,
    OVERLOADED,
    UNCHANGED,
    UNKNOWN,
    WRITING,
    WRONG_FIELD,
    WRONG_PARAMETER,
    Answer,
    Operation,
    Parameter,
    codes,
    query,
)

BUYING: tuple[Operation, ...] = (
    Operation(
        method="get",
        path=f"{API}/plans",
        name="listPlans",
        tag="Buying",
        summary="What is for sale",
        identity=False,
        parameters=(NONE_MATCH,),
        answers={
            200: Answer(
                description="The catalogue, in the order to show it",
                kind=tuple[PlanDocument, ...],
                example=examples.PLANS,
                headers=("ETag",),
            ),
            304: UNCHANGED,
        },
        codes=codes(),
    ),
    Operation(
        method="post",
        path=f"{API}/invoices",
        name="openInvoice",
        tag="Buying",
        summary="Buy a plan",
        description="Answers with an invoice; send the customer to its checkout_url. While an unpaid invoice "
        "for the same plan is open, that one is returned (200), so a double click buys once. JSON is read "
        "whatever Content-Type says.",
        parameters=(
            Parameter(
                name="Idempotency-Key",
                place="header",
                description="One per purchase, kept for 24 hours: the same key with the same request gets "
                "the answer of the first time; with another request it is refused. Only successes are kept.",
                # As an example of the schema, not of the parameter: who copies the call would reuse it.
                schema={
                    "type": "string",
                    "pattern": f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$",
                    "examples": ["3f1c0a52-purchase-1"],
                },
            ),
        ),
        body=InvoiceRequest,
        body_example=examples.INVOICE_REQUEST,
        answers={
            201: Answer(
                description="A new invoice",
                kind=InvoiceDocument,
                example=examples.INVOICE,
                headers=("Location",),
            ),
            200: Answer(
                description="The invoice that is open already",
                kind=InvoiceDocument,
                example=examples.INVOICE,
                headers=("Location",),
            ),
        },
        codes=codes(
            UNKNOWN,
            WRITING,
            WRONG_FIELD,
            {
                409: {"prepaid_cap": "It would pay more than 400 days ahead"},
                422: {
                    "unknown_plan": "There is no such plan; detail names those for sale",
                    "invalid_redirect_url": "errors says what address would be right",
                    "invalid_idempotency_key": "It is not 1 to 255 visible ASCII characters",
                    "idempotency_key_reused": "The key was used for another request",
                },
                429: {
                    "too_many_invoices": "Too many new invoices in a minute; Retry-After says when",
                    "too_many_keys": "More than 30 new Idempotency-Keys in a minute; repeats need the same",
                },
            },
            away=AWAY | BTCPAY | OVERLOADED,
        ),
    ),
    Operation(
        method="get",
        path=f"{API}/invoices",
        name="listInvoices",
        tag="Buying",
        summary="The user's invoices, newest first",
        description="Pages are stable: new invoices do not shift them.",
        parameters=(
            query(
                "limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
            ),
            query("cursor", "next_cursor of the page before", {"type": "string"}),
            query("status", "Only these", {"type": "string", "enum": [s.value for s in SHOWN_STATUSES]}),
            NONE_MATCH,
        ),
        answers={
            200: Answer(
                description="A page", kind=InvoicePage, example=examples.INVOICE_PAGE, headers=("ETag",)
            ),
            304: UNCHANGED,
        },
        codes=codes(
            UNKNOWN,
            WRONG_PARAMETER,
            {422: {"invalid_cursor": "It is no next_cursor of this user"}},
            away=AWAY,
        ),
    ),
    Operation(
        method="get",
        path=f"{API}/invoices/{{invoice_id}}",
        name="showInvoice",
        tag="Buying",
        summary="One invoice, as BTCPay sees it now",
        description="An open invoice is looked up at BTCPay (at most every 2 seconds); without BTCPay it is "
        "shown as last seen.",
        parameters=(
            Parameter(
                name="invoice_id",
                place="path",
                description="invoice_id of the invoice",
                schema={"type": "string"},
                example=examples.INVOICE.invoice_id,
            ),
            NONE_MATCH,
        ),
        answers={
            200: Answer(
                description="The invoice", kind=InvoiceDocument, example=examples.INVOICE, headers=("ETag",)
            ),
            304: UNCHANGED,
        },
        codes=codes(
            UNKNOWN, {404: {"invoice_not_found": "There is none, or it is another user's"}}, away=AWAY
        ),
    ),
)
