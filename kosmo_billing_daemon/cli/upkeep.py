"""``reconcile`` and ``republish``: look again and say again, beside a running daemon."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kosmo_billing_daemon.admin.upkeep import Moved, reconcile_now
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, run
from kosmo_billing_daemon.cli.invoices import HEADINGS, row
from kosmo_billing_daemon.cli.opened import opened
from kosmo_billing_daemon.cli.rendering import aside, console, invoice_json, line, print_json, table
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from kosmo_billing_daemon.store import outbox

LOOK_EVERY = 0.2  # seconds between looks at what still waits
STALLED_AFTER = 15.0  # seconds without any publication after which nobody publishes


class NobodyPublishes(Unavailable):
    """What was marked stays marked: the next daemon that leads publishes it."""

    code = "nobody_publishes"


def progress_bar() -> Progress:
    """Return a bar on standard error, which disappears when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=aside(), transient=True)


def reconcile(as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Check all open invoices against BTCPay now, and settle what was paid."""

    async def work() -> tuple[int, list[Moved]]:
        async with opened(env_file) as at:
            reconciliation = Reconciliation(pool=at.pool, settlement=at.settlement, clock=utc_now)
            with progress_bar() as bar:
                task = bar.add_task("looking at open invoices", total=None)
                return await reconcile_now(
                    reconciliation,
                    lambda total: bar.update(task, total=total),
                    lambda done: bar.update(task, completed=done),
                )

    looked, moved = run(work())
    if as_json:
        changes = [{**invoice_json(m.after), "status_before": m.before.status} for m in moved]
        print_json({"looked_at": looked, "changed": changes})
        return
    out = console()
    if moved:
        table(out, ("BEFORE", *HEADINGS), [(move.before.status, *row(move.after)) for move in moved])
    line(out, f"{looked} open invoices looked at, {len(moved)} changed")


def republish(
    user: Annotated[UUID | None, typer.Argument(metavar="[USER]", help="Only this user; else all.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the broker has acknowledged everything.")] = True,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Have the daemon publish one entitlement document, or all of them, once more."""

    async def work() -> int:
        async with opened(env_file) as at:
            with progress_bar() as bar:
                task = bar.add_task("marking documents", total=None)
                chosen = None if user is None else UserId(user)
                marked = await at.operations.republish(chosen, lambda n: bar.update(task, completed=n))
                if not wait:
                    return marked
                bar.update(task, description="publishing", total=marked, completed=0)
                loop = asyncio.get_running_loop()
                least, since = marked + 1, loop.time()
                while True:
                    async with at.pool.connection() as connection:
                        waiting = await outbox.count_waiting(connection, None if user is None else [user])
                    bar.update(task, completed=max(0, marked - waiting))
                    if not waiting:
                        return marked
                    if waiting < least:
                        least, since = waiting, loop.time()
                    elif loop.time() - since > STALLED_AFTER:
                        raise NobodyPublishes(
                            f"{waiting} documents are marked, but none was published for"
                            f" {STALLED_AFTER:.0f} s; does a daemon run and reach the broker?"
                        )
                    await asyncio.sleep(LOOK_EVERY)

    marked = run(work())
    if as_json:
        print_json({"documents": marked, "published": wait})
        return
    line(console(), f"{marked} documents {'published again' if wait else 'will be published again'}")
