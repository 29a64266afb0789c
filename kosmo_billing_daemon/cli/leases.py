"""``leases``: what strict gateways hold of users' quotas, and taking it back from one that vanished."""

from typing import Annotated

import typer

from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.admin.reporters import ReporterActions, Voided
from kosmo_billing_daemon.cli.frame import NAMES_A_USER, AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import print_done, print_rows
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store import leases
from kosmo_billing_daemon.store.leases import GrantedLease

Reporter = Annotated[str | None, typer.Option("--reporter", metavar="NAME", help="Of this gateway alone.")]
OfUser = Annotated[str | None, typer.Option("--user", metavar="USER", help=f"Of one alone. {NAMES_A_USER}")]


def list_(
    reporter: Reporter = None,
    user: OfUser = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List leases with messages outstanding, oldest first."""

    async def work(at: OpenedServices) -> list[GrantedLease]:
        user_id = None if user is None else await at.user(user)
        return await at.pool.read(leases.load_open, reporter, user_id, limit)

    found = run_opened(env_file, work)
    rows = [
        (
            one.reporter,
            str(one.user_id),
            f"{one.lease.outstanding} of {one.lease.messages}",
            when(one.granted_at),
            when(one.expires_at),
        )
        for one in found
    ]
    print_rows(found, ("GATEWAY", "USER", "OUTSTANDING", "GRANTED", "ENDS"), rows, as_json=as_json)


def free(
    reason: Reason,
    reporter: Reporter = None,
    user: OfUser = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Take back what a vanished gateway holds, so that others may lease it.

    If it returns after all, what it let through meanwhile is counted and may exceed the quota.
    """
    if reporter is None and user is None:
        raise Invalid("name a gateway with --reporter, or a user with --user", field="reporter")

    async def work(at: OpenedServices) -> Voided:
        user_id = None if user is None else await at.user(user)
        return await ReporterActions(pool=at.pool, clock=utc_now).free(reporter, user_id, by(reason))

    freed = run_opened(env_file, work)
    print_done(freed, f"{freed.messages} messages of {freed.users} users were taken back", as_json=as_json)


app = typer.Typer(help="What strict gateways hold of users' quotas.")
app.command("list")(list_)
app.command()(free)
