"""``user``: a whole history on one screen, and what an operator may change in it."""

from typing import Annotated, Any
from uuid import UUID

import typer

from kosmo_billing_daemon.admin import explaining, links, overview
from kosmo_billing_daemon.admin.explaining import quota, when
from kosmo_billing_daemon.admin.overview import History
from kosmo_billing_daemon.assembly.connections import links_of
from kosmo_billing_daemon.cli.extending import extend
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, Reason, User
from kosmo_billing_daemon.cli.listing import list_
from kosmo_billing_daemon.cli.opened import OpenedServices, by, load, run_opened
from kosmo_billing_daemon.cli.rendering import (
    INVOICE_HEADINGS,
    case_json,
    console,
    heading,
    invoice_json,
    invoice_row,
    line,
    plain,
    print_case,
    print_done,
    print_json,
    print_rows,
    purchase_json,
    table,
)
from kosmo_billing_daemon.cli.subjects import erase, export
from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.domain.subscriptions import Subscription, SubscriptionId, UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.whitelist import Whitelist
from kosmo_billing_daemon.store.nodes import Node

Bought = Annotated[UUID | None, typer.Option("--subscription", help="Not the current one but this.")]


def show(
    user: User,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many of each kind.")] = 10,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Explain one user: rights now and why, purchases, usage, invoices, cases, actions of operators."""

    async def work(at: OpenedServices) -> History:
        return await overview.load(at.pool, utc_now, at.renewals, await at.user(user), limit)

    history = run_opened(env_file, work)
    if as_json:
        print_json(_history_json(history))
    else:
        _print_history(history)


def grant(
    user: User,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="wanderer, guardian, sanctuary ...")],
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Give a plan as if it had been bought now; what is left of the present one is added (R2)."""

    async def work(at: OpenedServices) -> Subscription:
        return await at.operations.grant(await at.user(user), plan, by(reason))

    _tell(run_opened(env_file, work), "granted", as_json=as_json)


def revoke(
    user: User,
    *,
    reason: Reason,
    subscription: Bought = None,
    credit: Annotated[
        bool, typer.Option("--credit", help="End the current one; what is left of it becomes credit.")
    ] = False,
    pack: Annotated[
        str | None, typer.Option("--pack", metavar="INVOICE", help="Take the pack of this invoice back.")
    ] = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Take a purchase back as if it had never been; what was paid before it counts again."""
    chosen = None if subscription is None else SubscriptionId(subscription)
    if credit and chosen is not None:
        raise Invalid("--credit ends the current subscription: leave out --subscription")
    if pack is not None and (credit or chosen is not None):
        raise Invalid("--pack takes one pack back: leave out --subscription and --credit")

    async def work(at: OpenedServices) -> Subscription:
        user_id = await at.user(user)
        if pack is not None:
            return await at.operations.revoke_pack(user_id, pack, by(reason))
        if credit:
            return await at.operations.cash(user_id, by(reason))
        return await at.operations.revoke(user_id, chosen, by(reason))

    _tell(run_opened(env_file, work), "revoked", as_json=as_json)


def reinstate(
    user: User,
    reason: Reason,
    subscription: Annotated[UUID, typer.Option("--subscription", help="The one that was revoked.")],
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Give a revoked purchase back with the same period, no extra time (R8)."""

    async def work(at: OpenedServices) -> Subscription:
        chosen = SubscriptionId(subscription)
        return await at.operations.reinstate(await at.user(user), chosen, by(reason))

    _tell(run_opened(env_file, work), "reinstated", as_json=as_json)


def link(
    user: User,
    revoke: Annotated[bool, typer.Option("--revoke", help="End the present link first.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why it is revoked; kept with your name.")] = "",
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Show the user's renewal link, with which plans are paid without a login."""

    async def work(at: OpenedServices) -> tuple[UserId, str]:
        user_id = await at.user(user)
        given = links_of(load(env_file), at.pool)
        if revoke:
            await links.revoke(given, user_id, by(reason))
        return user_id, await links.show(given, user_id)

    user_id, url = run_opened(env_file, work)
    print_done({"user_id": user_id, "renew_url": url, "revoked": revoke}, url, as_json=as_json)


def nodes(
    user: User,
    *,
    add: Annotated[str | None, typer.Option(metavar="NODE", help="List this node.")] = None,
    label: Annotated[str | None, typer.Option(help="Its label.")] = None,
    remove: Annotated[str | None, typer.Option(metavar="NODE", help="Take this node off the list.")] = None,
    reason: Annotated[str, typer.Option(help="Why, in one line; needed for a change.")] = "",
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List the nodes of the user's whitelist, or change it; NEW_NODES_PER_DAY does not limit operators."""

    async def work(at: OpenedServices) -> list[Node]:
        # The limit of new nodes is for users.
        user_id = await at.user(user)
        whitelist = Whitelist(pool=at.pool, clock=utc_now, changed=lambda: None, new_per_day=0)
        if add is not None:
            action = by(reason).entry("user.nodes", user_id, f"node {add} listed", utc_now())
            await whitelist.add(user_id, add, label, action=action)
        if remove is not None:
            action = by(reason).entry("user.nodes", user_id, f"node {remove} taken off", utc_now())
            await whitelist.remove(user_id, remove, action=action)
        return await whitelist.show(user_id)

    found = run_opened(env_file, work)
    rows = [(node.node_id, node.label or "-", when(node.added_at)) for node in found]
    print_rows(found, ("NODE", "LABEL", "ADDED"), rows, as_json=as_json)


def _tell(row: Subscription, done: str, *, as_json: bool) -> None:
    said = (
        f"{done}: {row.plan.plan_type} {when(row.valid_from)} to {when(row.valid_until)}, {row.status},"
        f" subscription {row.id}"
    )
    print_done(purchase_json(row), said, f"  {explaining.purchase(row)}", as_json=as_json)


def _history_json(history: History) -> dict[str, Any]:
    document = plain(history.document)
    return {
        "user_id": history.document.user_id,
        "explanation": explaining.standing(history),
        "entitlement": document,
        "renewal": {
            "auto": history.renewal.auto,
            "obstacle": history.renewal.obstacle,
            "explanation": explaining.renewal(history.renewal),
        },
        "publication": history.publication,
        "purchases": [purchase_json(row) for row in history.purchases],
        "nodes": history.nodes,
        "days": history.days,
        "messages": history.messages,
        "credit": [{"amount": amount, "currency": name} for name, amount in history.credit.items()],
        "ledger": [
            {
                "at": rfc3339(entry.at),
                "kind": entry.kind,
                "amount": f"{entry.amount:f}",
                "currency": entry.currency,
                "invoice_id": entry.invoice_id,
                "explanation": explaining.entry(entry),
            }
            for entry in history.entries
        ],
        "invoices": [invoice_json(invoice) for invoice in history.invoices],
        "cases": [case_json(case) for case in history.cases],
        "events": [{"type": e.type, "at": rfc3339(e.occurred_at), "data": e.data} for e in history.events],
        "audit": history.actions,
    }


def _print_history(history: History) -> None:
    out = console()
    line(out, f"user {history.document.user_id}")
    for sentence in explaining.standing(history):
        line(out, f"  {sentence}")
    line(out, f"  {explaining.renewal(history.renewal)}")
    if history.publication is not None:
        at = when(history.publication.changed_at)
        line(out, f"  document version {history.publication.version} of {at}")
    if any(case.closed_at is None for case in history.cases):
        line(out, "  a payment needs attention: see the cases below")
    heading(out, "Purchases, newest first")
    for row in history.purchases:
        ended = f", ended {when(row.ended_at)}" if row.ended_at else ""
        line(
            out,
            f"{row.plan.plan_type}  {row.status}  {when(row.valid_from)} to {when(row.valid_until)}{ended}"
            f"  used {quota(row.messages_used, row.messages_limit)}  {explaining.origin(row)}",
        )
        line(out, f"    {explaining.purchase(row)}")
        line(out, f"    subscription {row.id}")
    if history.nodes:
        heading(out, "Whitelist")
        line(out, "  ".join(f"{n.node_id} ({n.label})" if n.label else n.node_id for n in history.nodes))
    if history.days:
        heading(out, "Messages per day")
        line(out, "  ".join(f"{day.day} {day.messages}" for day in history.days))
        for message in history.messages:
            what = (when(message.sent_at), message.node_id or "-", message.decision, message.message_id)
            line(out, "  " + "  ".join(what))
    heading(out, "Money, newest first")
    line(out, explaining.credit(history))
    for entry in history.entries:
        line(out, f"  {when(entry.at)}  {explaining.entry(entry)}")
    heading(out, "Invoices")
    table(out, INVOICE_HEADINGS, [invoice_row(invoice) for invoice in history.invoices])
    for case in history.cases:
        out.print()
        print_case(out, case)
    heading(out, "Events")
    table(out, ("AT", "TYPE"), [(when(event.occurred_at), event.type) for event in history.events])
    if history.actions:
        heading(out, "Operator actions")
        actions = [
            (when(entry.at), entry.who, entry.action, entry.subject, entry.reason)
            for entry in history.actions
        ]
        table(out, ("AT", "WHO", "WHAT", "ON", "WHY"), actions)


app = typer.Typer(
    help="Users: who there is, one's whole history, and what may be changed.", no_args_is_help=True
)
app.command("list")(list_)
for action in (show, grant, revoke, reinstate, extend, nodes, link, export, erase):
    app.command()(action)
