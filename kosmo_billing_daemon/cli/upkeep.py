"""``reconcile`` and ``republish``: look again and say again, beside a running daemon."""

import asyncio
from typing import Annotated

import typer

from kosmo_billing_daemon.admin.upkeep import Moved, reconcile_now
from kosmo_billing_daemon.cli.frame import NAMES_A_USER, AsJson, EnvFile
from kosmo_billing_daemon.cli.opened import OpenedServices, run_opened
from kosmo_billing_daemon.cli.progress import long_work
from kosmo_billing_daemon.cli.rendering import (
    INVOICE_HEADINGS,
    console,
    invoice_json,
    invoice_row,
    line,
    print_done,
    print_json,
    table,
)
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from kosmo_billing_daemon.store import outbox

LOOK_EVERY = 0.2  # seconds between looks at what still waits
STALLED_AFTER = 15.0  # seconds without any publication after which nobody publishes


class NobodyPublishes(Unavailable):
    """What was marked stays marked: the next daemon that leads publishes it."""

    code = "nobody_publishes"


def reconcile(as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Check all open invoices against BTCPay now, and settle what was paid."""

    async def work(at: OpenedServices) -> tuple[int, list[Moved]]:
        reconciliation = Reconciliation(pool=at.pool, settlement=at.settlement, clock=utc_now)
        with long_work(again="what was looked up is settled") as shown:
            return await reconcile_now(
                reconciliation, lambda total: shown.begin("checking open invoices", total), shown.done
            )

    looked, moved = run_opened(env_file, work)
    if as_json:
        changes = [{**invoice_json(m.after), "status_before": m.before.status} for m in moved]
        print_json({"looked_at": looked, "changed": changes})
        return
    out = console()
    if moved:
        table(
            out,
            ("BEFORE", *INVOICE_HEADINGS),
            [(move.before.status, *invoice_row(move.after)) for move in moved],
        )
    line(out, f"{looked} open invoices looked at, {len(moved)} changed")


def republish(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help=f"{NAMES_A_USER} Without it all.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the broker has acknowledged everything.")] = True,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Have the daemon publish one entitlement document, or all of them, once more."""

    async def work(at: OpenedServices) -> int:
        chosen = None if user is None else await at.user(user)
        with long_work(again="what is marked is published all the same") as shown:
            shown.begin("marking documents", 1 if chosen else await at.operations.count_documents())
            marked = await at.operations.republish(chosen, shown.done)
            if not wait:
                return marked
            shown.begin("publishing", marked)
            loop = asyncio.get_running_loop()
            least, since = marked + 1, loop.time()
            while True:
                waiting = await at.pool.read(outbox.count_waiting, None if chosen is None else [chosen])
                shown.done(max(0, marked - waiting))
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

    marked = run_opened(env_file, work)
    said = f"{marked} documents {'published again' if wait else 'will be published again'}"
    print_done({"documents": marked, "published": wait}, said, as_json=as_json)
