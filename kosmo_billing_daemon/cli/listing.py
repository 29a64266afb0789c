"""``user list`` and ``invoices find``: who there is, and who or what is meant by a name."""

from typing import Annotated, Any

import typer

from kosmo_billing_daemon.admin import finding, listing
from kosmo_billing_daemon.admin.explaining import quota, when
from kosmo_billing_daemon.admin.listing import HasPlan, ListedUser, UserFilter
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile
from kosmo_billing_daemon.cli.opened import run_opened
from kosmo_billing_daemon.cli.rendering import (
    INVOICE_HEADINGS,
    case_json,
    command,
    console,
    heading,
    invoice_json,
    invoice_row,
    line,
    print_case,
    print_json,
    print_parts,
    table,
)
from kosmo_billing_daemon.errors import Invalid, NotFound
from kosmo_billing_daemon.runtime.clock import utc_now

HEADINGS = ("USER", "PLAN", "STATE", "UNTIL", "USED", "CREDIT", "CASES")


def list_(
    *,
    plan: Annotated[str | None, typer.Option(help="Only users who have this plan now.")] = None,
    ending: Annotated[
        int | None, typer.Option(metavar="DAYS", help="Only those whose plan ends within so many days.")
    ] = None,
    exhausted: Annotated[
        bool, typer.Option("--exhausted", help="Only those who have used all their messages.")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="Only those with a case that is open.")
    ] = False,
    state: Annotated[
        HasPlan | None, typer.Option(help="Only those who have a plan now, or have none any more.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=listing.LONGEST_LIMIT, help="At most so many.")] = 50,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Continue, as the list before says.")
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write all of them as CSV, whatever the limit.")
    ] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List users who have or had a plan; the next to end first where all have one."""
    if as_csv and (as_json or after is not None):
        raise Invalid("--csv writes the whole list: leave out --json and --after")
    wanted = UserFilter(plan=plan, ending=ending, exhausted=exhausted, attention=attention, state=state)
    if as_csv:
        run_opened(env_file, lambda at: print_parts(listing.load_csv(at.pool, wanted, utc_now())))
        return

    page = run_opened(env_file, lambda at: listing.load_page(at.pool, wanted, after, limit, utc_now()))
    if as_json:
        print_json({"users": [_json(user) for user in page.users], "next": page.next_cursor})
        return
    out = console()
    table(out, HEADINGS, [_row(user) for user in page.users])
    if page.next_cursor is not None:
        line(out, "for more, add:")
        line(out, f"  --after {page.next_cursor}")


def find(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A user id, an order id, BTCPay's id of an invoice, or a node such as !a1b2c3d4.",
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many invoices of a user.")] = 20,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Find whose an invoice, an order or a node is, and show the user's invoices."""
    found = run_opened(env_file, lambda at: finding.find(at.pool, name, limit))
    if as_json:
        print_json(
            {
                "users": [_json(user) for user in found.users],
                "invoices": [invoice_json(invoice) for invoice in found.invoices],
                "cases": [case_json(case) for case in found.cases],
            }
        )
        return
    if found.is_empty:
        raise NotFound(
            f"nothing is known of {name!r}: tried as user id, order id, invoice id of BTCPay, and node id"
        )
    out = console()
    if found.users:
        table(out, HEADINGS, [_row(user) for user in found.users])
        for user in found.users[:1]:
            line(out, f"all about this user: {command('user', 'show', str(user.user_id))}")
    if found.invoices:
        heading(out, "Invoices, newest first")
        table(
            out, (*INVOICE_HEADINGS, "ORDER"), [(*invoice_row(each), str(each.id)) for each in found.invoices]
        )
    for case in found.cases:
        out.print()
        print_case(out, case)


def _row(user: ListedUser) -> tuple[str, ...]:
    credit = " + ".join(f"{amount:f} {currency}" for currency, amount in sorted(user.credit.items()))
    return (
        str(user.user_id),
        user.plan_type or "-",
        user.state,
        when(user.valid_until),
        quota(user.messages_used, user.messages_limit),
        credit or "-",
        str(user.open_cases or "-"),
    )


def _json(user: ListedUser) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "plan_type": user.plan_type,
        "state": user.state,
        "valid_until": user.valid_until,
        "messages_used": user.messages_used,
        "messages_limit": user.messages_limit,
        "quota_state": user.quota_state,
        "credit": [
            {"amount": f"{amount:f}", "currency": name} for name, amount in sorted(user.credit.items())
        ],
        "open_cases": user.open_cases,
    }
