"""A user's money: what a purchase would do, and what is left in credit."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from aiohttp import web
from pydantic import Field

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.domain.quoting import Quote
from kosmo_billing_daemon.domain.subscriptions import Refusal, Rule
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.credit import CreditAccount
from kosmo_billing_daemon.web import documents, keys
from kosmo_billing_daemon.web.conditional import conditional
from kosmo_billing_daemon.web.documents import Amount, Currency, PriceDocument, Time
from kosmo_billing_daemon.web.identity import identify
from kosmo_billing_daemon.web.operations import WRITING, Answer, Operation
from kosmo_billing_daemon.web.plans import NOT_FOR_SALE, PackWanted, PlanWanted, wanted
from kosmo_billing_daemon.web.rendering import json_response
from kosmo_billing_daemon.web.requests import WrongFields, read_object


@record(kw_only=True)
class QuoteRequest:
    """What to quote: a plan or a pack. Other fields are refused."""

    plan_type: PlanWanted = None
    pack: PackWanted = None


@record(kw_only=True)
class QuoteDocument:
    """What buying would do at this instant; a pack raises ``messages_limit`` alone."""

    plan_type: Annotated[str | None, Field(description="null for a pack", examples=["guardian"])]
    pack: Annotated[str | None, Field(description="The pack; null for a plan")]
    price: PriceDocument
    amount_due: Annotated[Amount, Field(description="What is left to pay; 0: credit pays it all, at once")]
    credit_used: Amount
    refusal: Annotated[
        Refusal | None,
        Field(description="Why it cannot be bought now; then the fields below are null"),
    ]
    rule: Annotated[
        Rule | None,
        Field(
            description="fresh: a new period; added: to what is left of the same plan; converted: what is "
            "left of another plan is carried by its worth; null for a pack"
        ),
    ]
    valid_until: Time | None
    messages_limit: Annotated[int | None, Field(description="null is unlimited, or refused")]
    carried_seconds: Annotated[int | None, Field(description="Time taken over from the present plan")]
    carried_messages: Annotated[int | None, Field(description="Messages taken over from it")]
    credit_added: Annotated[
        tuple[PriceDocument, ...],
        Field(
            description="Worth that cannot be taken over, since it is in another currency: it becomes credit"
        ),
    ]


@record(kw_only=True)
class BalanceDocument:
    """Credit in one currency."""

    amount: Amount
    currency: Currency
    reserved: Annotated[Amount, Field(description="The part that is kept for open invoices")]


@record(kw_only=True)
class EntryDocument:
    """One entry of the ledger."""

    at: Time
    kind: EntryKind
    amount: Annotated[Amount, Field(description="What it did to the credit")]
    currency: Currency
    invoice_id: str | None
    bought: Annotated[str | None, Field(description="The plan or pack that it is about, where there is one")]
    is_reversal: Annotated[bool, Field(description="It takes back an earlier entry")]


@record(kw_only=True)
class RefundDocument:
    """A refund that the customer can claim, or has claimed."""

    amount: Amount
    currency: Currency
    link: Annotated[str, Field(description="Where it is claimed")]
    ordered_at: Time


@record(kw_only=True)
class CreditDocument:
    """What came in and bought nothing yet, and how it came about."""

    balances: tuple[BalanceDocument, ...]
    refunds: tuple[RefundDocument, ...]
    entries: Annotated[tuple[EntryDocument, ...], Field(description="The last ones, newest first")]


async def _quote(request: web.Request) -> web.Response:
    user_id = await identify(request)
    document = await read_object(request, QuoteRequest)
    with WrongFields() as wrong:
        plan = wrong.read(wanted, document, request.app[keys.SERVICES].catalogue)
    return json_response(_quoted(await request.app[keys.SERVICES].credit.quote(user_id, plan)))


async def _show(request: web.Request) -> web.Response:
    user_id = await identify(request)
    return conditional(request, _shown(await request.app[keys.SERVICES].credit.show(user_id)))


def _quoted(quoted: Quote) -> QuoteDocument:
    row, is_pack = quoted.subscription, quoted.plan.is_pack
    carried = None if row is None or is_pack else row.carried
    return QuoteDocument(
        plan_type=None if is_pack else quoted.plan.plan_type,
        pack=quoted.plan.plan_type if is_pack else None,
        price=PriceDocument.of(quoted.plan.price),
        amount_due=quoted.due.amount,
        credit_used=quoted.due.credit,
        refusal=quoted.refusal,
        rule=None if carried is None else carried.rule,
        valid_until=None if row is None else row.valid_until,
        messages_limit=None if row is None else row.messages_limit,
        carried_seconds=None if carried is None else carried.time // timedelta(seconds=1),
        carried_messages=None if carried is None else carried.messages,
        credit_added=tuple(
            PriceDocument(amount=amount, currency=currency)
            for currency, amount in quoted.credit_added.items()
        ),
    )


def _shown(account: CreditAccount) -> CreditDocument:
    return CreditDocument(
        balances=tuple(
            BalanceDocument(amount=each.amount, currency=each.currency, reserved=each.reserved)
            for each in account.balances
        ),
        refunds=tuple(
            RefundDocument(
                amount=each.total.amount,
                currency=each.total.currency,
                link=each.link or "",
                ordered_at=each.ordered_at,
            )
            for each in account.refunds
        ),
        entries=tuple(
            EntryDocument(
                at=each.at,
                kind=each.kind,
                amount=each.amount,
                currency=each.currency,
                invoice_id=each.invoice_id,
                bought=each.bought,
                is_reversal=each.reverses is not None,
            )
            for each in account.entries
        ),
    )


OPERATIONS = (
    Operation(
        method="post",
        path=f"{API}/quotes",
        handler=_quote,
        name="quote",
        tag="Buying",
        summary="What buying a plan or a pack would do now",
        description="It changes nothing. The answer is what the purchase does if it is paid at this instant.",
        body=QuoteRequest,
        needs_body=True,
        body_example=QuoteRequest(plan_type="wanderer"),
        answers={
            200: Answer(
                "The quote",
                QuoteDocument,
                QuoteDocument(
                    plan_type="wanderer",
                    pack=None,
                    price=documents.EXAMPLE_PRICE,
                    amount_due=Decimal("0.90"),
                    credit_used=Decimal("4.10"),
                    refusal=None,
                    rule=Rule.FRESH,
                    valid_until=documents.EXAMPLE_END,
                    messages_limit=50,
                    carried_seconds=0,
                    carried_messages=0,
                    credit_added=(),
                ),
            )
        },
        problems=(WRITING, NOT_FOR_SALE),
    ),
    Operation(
        method="get",
        path=f"{API}/credit",
        handler=_show,
        name="showCredit",
        tag="Buying",
        summary="The user's credit",
        description="Money that was paid and bought nothing yet. It is spent first by the next purchase.",
        has_etag=True,
        answers={
            200: Answer(
                "The credit",
                CreditDocument,
                CreditDocument(
                    balances=(BalanceDocument(amount=Decimal("4.10"), currency="USD", reserved=Decimal(0)),),
                    refunds=(),
                    entries=(
                        EntryDocument(
                            at=documents.EXAMPLE_TIME,
                            kind=EntryKind.RECEIVED,
                            amount=Decimal("4.10"),
                            currency="USD",
                            invoice_id=documents.EXAMPLE_INVOICE,
                            bought="guardian",
                            is_reversal=False,
                        ),
                    ),
                ),
            )
        },
    ),
)
