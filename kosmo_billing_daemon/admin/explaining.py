"""Why a user may or may not send right now, and why each purchase has the dates it has, in sentences.

The command line and the console say the same in the same words.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import assert_never

from kosmo_billing_daemon.admin.overview import History
from kosmo_billing_daemon.contract.payloads import EntitlementDocument, QuotaState, Scope, Standing
from kosmo_billing_daemon.domain.auto_renewal import Obstacle
from kosmo_billing_daemon.domain.folding import own_extensions, own_packs
from kosmo_billing_daemon.domain.ledger import EntryKind
from kosmo_billing_daemon.domain.subscriptions import Rule, Source, Subscription
from kosmo_billing_daemon.services.auto_renewal import RenewalOutlook
from kosmo_billing_daemon.store.entries import Entry


def when(at: datetime | None) -> str:
    """Write a time, to the second, in UTC."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def units(seconds: int) -> list[tuple[int, str]]:
    """Return how many days, hours, minutes and seconds there are in so many seconds."""
    return [
        (seconds // 86400, "d"),
        (seconds // 3600 % 24, "h"),
        (seconds // 60 % 60, "min"),
        (seconds % 60, "s"),
    ]


def duration(span: timedelta) -> str:
    """Write a duration in its two greatest units."""
    named = [f"{count} {unit}" for count, unit in units(int(span.total_seconds())) if count]
    return " ".join(named[:2]) or "0 s"


def money(amount: Decimal | None, currency: str) -> str:
    return "-" if amount is None else f"{amount} {currency}"


def quota(used: int, limit: int | None) -> str:
    return f"{used} of {'unlimited' if limit is None else limit}"


def standing(history: History) -> list[str]:
    """Say what the user may do now, and what is in the way."""
    document = history.document
    match document.status:
        case Standing.NONE:
            said = ["may receive only: nothing was ever bought or granted (no_plan)"]
        case Standing.EXPIRED:
            said = [f"may receive only: the last plan ended {when(document.valid_until)} (expired)"]
        case Standing.REVOKED:
            said = [f"may receive only: the last plan was revoked {when(document.valid_until)} (revoked)"]
        case Standing.ACTIVE | Standing.GRACE:
            said = _current(document)
        case _:
            assert_never(document.status)
    if history.publication is None:
        said.append("no document was ever made, so gateways call the user unknown (unknown_user)")
    elif history.publication.waits:
        said.append("gateways do not know this yet: the newest document waits to be published")
    return said


def _current(document: EntitlementDocument) -> list[str]:
    said = [f"has {document.plan_type} until {when(document.valid_until)}"]
    if document.status is Standing.GRACE:
        said.append(
            f"which is over; a payment that is confirming keeps the rights until {when(document.grace_until)}"
        )
    if document.quota_state is QuotaState.EXHAUSTED:
        said.append(
            f"may send nothing: all {document.messages_limit} messages are used (quota_exhausted);"
            " another purchase helps at once"
        )
    elif document.messages_limit is None:
        said.append("may send without a limit")
    else:
        left = document.messages_limit - document.messages_used
        said.append(
            f"may send {left} more messages ({document.messages_used} used of {document.messages_limit})"
        )
    if document.scope is Scope.WHITELIST:
        count = len(document.allowed_nodes)
        said.append(
            f"only to {'the node' if count == 1 else f'the {count} nodes'} on the list; others are refused"
            " (node_not_allowed)"
            if count
            else "to no node: the list is empty, so every message is refused (node_not_allowed)"
        )
    return said


def purchase(row: Subscription) -> str:
    """Say which part of R2 produced the dates of a purchase, and from whom it came."""
    period, carried = duration(row.plan.period), row.carried
    own = f"{period} and {'unlimited' if row.plan.quota is None else row.plan.quota} messages of its own"
    if packs := sum(lot.messages or 0 for lot in own_packs(row)):
        own += f" and {packs} of packs"
    if given := sum((lot.time_left for lot in own_extensions(row)), timedelta(0)):
        own += f", {duration(given)} given by an operator"
    match carried.rule:
        case Rule.FRESH:
            return f"new period: {own}; nothing was left to take over"
        case Rule.ADDED:
            return (
                f"added: {own}, and what the same plan before it had left:"
                f" {duration(carried.time)} and {carried.messages} messages"
            )
        case Rule.CONVERTED:
            return (
                f"converted: {own}, and the worth of the plan before it, at this plan's price:"
                f" {duration(carried.time)} and {carried.messages} messages"
            )


def renewal(outlook: RenewalOutlook) -> str:
    """Say whether credit renews the plan at its end, and if not, why."""
    if not outlook.auto:
        return "does not renew from credit: the user did not choose it"
    due = "" if outlook.quote is None else money(outlook.quote.due.amount, outlook.quote.plan.price.currency)
    match outlook.obstacle:
        case None:
            return "renews from credit when the plan ends"
        case Obstacle.NO_PLAN:
            why = "there is no plan to renew"
        case Obstacle.NOT_FOR_SALE:
            why = "the plan is not for sale any more"
        case Obstacle.PREPAID_CAP:
            why = "it would be paid more than 400 days ahead"
        case Obstacle.CREDIT_OFF:
            why = "CREDIT is off"
        case Obstacle.CREDIT_TOO_LOW:
            why = f"the credit lacks {due} of the price"
        case _:
            assert_never(outlook.obstacle)
    return f"chose renewal from credit, but as things stand it would not happen: {why}"


def credit(history: History) -> str:
    """Say what the user has paid that bought nothing yet."""
    sums = [money(amount, currency) for currency, amount in sorted(history.credit.items())]
    return f"credit: {' and '.join(sums)}" if sums else "no credit"


def entry(one: Entry) -> str:
    """Say what an entry of the ledger tells, so that it can be read aloud."""
    sum_ = money(abs(one.amount), one.currency)
    invoice = "" if one.invoice_id is None else f" (invoice {one.invoice_id})"
    told = "" if one.who is None else f", by {one.who}: {one.reason}"
    return f"{sum_} {booked(one)}{invoice}{told}"


def booked(one: Entry) -> str:
    """Say what happened to the money of an entry."""
    is_reversal = (one.amount < 0) == (one.kind.sign > 0)
    match one.kind:
        case EntryKind.RECEIVED:
            for_ = "" if one.bought is None else f" for {one.bought}"
            what = "not counted as received any more" if is_reversal else f"received by BTCPay{for_}"
            if one.order_id is None:
                what = "received by BTCPay for an order that was lost"
        case EntryKind.GRANTED:
            why = "so that the credit is not below zero"
            if one.order_id is not None:
                why = "since the invoice was settled manually"
            what = "not granted any more" if is_reversal else f"granted, {why}"
        case EntryKind.SOLD:
            what = f"paid for {one.bought or 'a plan or a pack'}"
            if is_reversal and one.order_id is None:
                what = "came back: the rest of a plan was not used and not taken over by another"
            elif is_reversal:
                what = f"came back: {one.bought or 'the plan'} was taken back"
        case EntryKind.REFUNDED:
            what = "came back: the refund was cancelled" if is_reversal else "refunded"
        case EntryKind.WRITTEN_OFF:
            what = "came back: it is not settled outside" if is_reversal else "settled outside"
        case _:
            assert_never(one.kind)
    return what


def origin(row: Subscription) -> str:
    """Say where the purchase came from."""
    match row.source:
        case Source.BTCPAY:
            return f"paid {money(row.plan.price.amount, row.plan.price.currency)}"
        case Source.MANUAL:
            return "settled manually"
        case Source.GRANT:
            return "granted by an operator"
        case Source.CREDIT:
            return f"paid {money(row.plan.price.amount, row.plan.price.currency)} from credit"
        case Source.ADOPTED:
            return "moved in from KosmoConnect v0.1"
