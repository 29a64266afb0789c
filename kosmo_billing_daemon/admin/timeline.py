"""One user's life as it happened: what was bought, used, paid, decided and said, newest first."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

from kosmo_billing_daemon.admin import explaining
from kosmo_billing_daemon.admin.overview import History
from kosmo_billing_daemon.domain.subscriptions import Status
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.refunds import Refund


class Topic(StrEnum):
    """What a moment is about."""

    PLAN = "plan"
    MONEY = "money"
    USAGE = "usage"
    REMINDER = "reminder"
    NODE = "node"
    CASE = "case"
    OPERATOR = "operator"


@record
class Moment:
    """One thing that happened. ``title`` says what, ``text`` why or how."""

    at: datetime
    topic: Topic
    title: str
    text: str = ""
    is_bad: bool = False


def timeline(history: History, refunds: tuple[Refund, ...] = ()) -> list[Moment]:
    """Return what happened to a user, newest first."""
    found = [*_plans(history), *_money(history, refunds), *_said(history), *_rest(history)]
    return sorted(found, key=lambda moment: moment.at, reverse=True)


def _plans(history: History) -> Iterator[Moment]:
    for row in history.purchases:
        title = f"{row.plan.plan_type} until {explaining.when(row.valid_until)}: {explaining.origin(row)}"
        yield Moment(row.valid_from, Topic.PLAN, title, explaining.purchase(row))
        if row.ended_at is None:
            continue
        told = {Status.REPLACED: "went over into the next purchase", Status.REVOKED: "was revoked"}
        how = "was ended, and what was left of it became credit" if row.cashed_at else "ended"
        title = f"{row.plan.plan_type} {told.get(row.status, how)}"
        used = f"{explaining.quota(row.messages_used, row.messages_limit)} messages were used"
        yield Moment(row.ended_at, Topic.PLAN, title, used, is_bad=row.status is Status.REVOKED)


def _money(history: History, refunds: tuple[Refund, ...]) -> Iterator[Moment]:
    for entry in history.entries:
        yield Moment(entry.at, Topic.MONEY, explaining.entry(entry))
    for invoice in history.invoices:
        price = explaining.money(invoice.plan.price.amount, invoice.plan.price.currency)
        title = f"invoice over {price} for {invoice.plan.plan_type} opened"
        text = f"{invoice.btcpay_invoice_id or 'not at BTCPay'}, now {invoice.status}, order {invoice.id}"
        yield Moment(invoice.created_at, Topic.MONEY, title, text)
    for refund in refunds:
        total = explaining.money(refund.total.amount, refund.total.currency)
        state = "not made yet" if refund.link is None else f"can be claimed at {refund.link}"
        if refund.cancelled_at is not None or refund.paid_at is not None:
            state = "cancelled" if refund.paid_at is None else "paid"
        text = f"invoice {refund.btcpay_invoice_id}: {state}"
        yield Moment(refund.ordered_at, Topic.MONEY, f"refund of {total} ordered", text)


_USAGE = {
    "quota.warning": "80 % of the messages are used",
    "quota.exhausted": "all messages are used: gateways refuse from here on",
    "quota.reset": "the messages are enough again",
    "quota.topped_up": "a pack raised the limit",
}


def _said(history: History) -> Iterator[Moment]:
    """Give what only events tell; purchases and money are told by their rows."""
    for event in history.events:
        at, data = event.occurred_at, event.data
        if event.type in _USAGE:
            used = f"{explaining.quota(data.get('messages_used') or 0, data.get('messages_limit'))} messages"
            yield Moment(at, Topic.USAGE, _USAGE[event.type], used, is_bad=event.type == "quota.exhausted")
        elif event.type == "subscription.expiring":
            text = f"the plan ends {data.get('valid_until')}"
            yield Moment(at, Topic.REMINDER, f"reminded with {data.get('hours_left')} hours left", text)
        elif event.type == "subscription.changed" and data.get("reason") == "late_usage":
            text = "so less was left to carry over"
            yield Moment(at, Topic.PLAN, "messages of an earlier plan were reported late", text)


_DONE = {
    "user.grant": "granted a plan",
    "user.extend": "extended the plan",
    "user.revoke": "revoked a purchase",
    "user.reinstate": "reinstated a purchase",
    "user.cash": "ended the plan for credit",
    "user.nodes": "changed the nodes",
    "user.link.revoke": "revoked the renewal link",
    "usage.void": "took messages back",
    "leases.free": "took leases back",
    "invoice.settle": "settled an invoice",
    "invoice.refund": "refunded an invoice",
    "invoice.refund_cancel": "cancelled a refund",
    "attention.close": "closed a case",
    "attention.give": "gave the money of an unknown order",
}


def _rest(history: History) -> Iterator[Moment]:
    for node in history.nodes:
        label = f" as {node.label}" if node.label else ""
        yield Moment(node.added_at, Topic.NODE, f"node {node.node_id} listed{label}")
    for case in history.cases:
        kind = case.kind.replace("_", " ")
        opened, is_bad = f"case {case.number} opened: {kind}", case.closed_at is None
        yield Moment(case.opened_at, Topic.CASE, opened, case.detail, is_bad=is_bad)
        if case.closed_at is not None:
            closed = f"case {case.number} closed: {kind}"
            yield Moment(case.closed_at, Topic.CASE, closed, case.resolution or "")
    yield from map(by_operator, history.actions)


def by_operator(action: AuditEntry) -> Moment:
    """Say what an operator did."""
    title = f"{action.who} {_DONE.get(action.action, action.action)}: {action.reason}"
    return Moment(action.at, Topic.OPERATOR, title, action.subject)
