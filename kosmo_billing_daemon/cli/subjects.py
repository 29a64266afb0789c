"""``user export`` and ``user erase``: what a person may ask for about their own data."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from kosmo_billing_daemon.admin.subjects import DataSubjects, ErasurePreview
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, Reason, User, new_file, own_path
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import aside, line, print_done, print_parts, table
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.subjects import HELD

CLEARED_WITHIN = 15.0  # seconds; a daemon that publishes needs less than one
LOOK_EVERY = 0.1  # seconds


class NotCleared(Unavailable):
    """The user is erased, and gateways do not know it yet."""

    code = "nobody_publishes"


def export(
    user: User,
    output: Annotated[
        Path | None,
        typer.Option("--output", callback=own_path, help="A new file, for you alone; else standard output."),
    ] = None,
    env_file: EnvFile = None,
) -> None:
    """Write everything that is known about one user as JSON: each table with what it is, and its rows."""

    async def work(at: OpenedServices) -> None:
        parts = _subjects(at).export_text(await at.user(user))
        if output is None or str(output) == "-":
            await print_parts(parts)
            return
        async with contextlib.aclosing(parts):
            first = await anext(parts)  # before a file is made for a user of whom nothing is known
            with new_file(output) as file:
                file.write(first)
                async for part in parts:
                    file.write(part)

    run_opened(env_file, work)


def erase(
    user: User,
    *,
    reason: Reason,
    forfeit: Annotated[
        bool, typer.Option("--forfeit", help="Also what the user still has: a plan, credit, an open invoice.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Erase one user: everything but money, which stays in the books under a random id. Nothing undoes it."""
    action = by(reason)

    async def work(at: OpenedServices) -> Mapping[str, int]:
        subject, user_id = _subjects(at), await at.user(user)
        preview = await subject.preview(user_id)
        _show(preview, forfeit=forfeit)
        if preview.open_refunds:
            raise Conflict("nothing was erased: a refund is open", code="refund_open")
        if preview.forfeits and not forfeit:
            raise Conflict("nothing was erased; with --forfeit the user gives this up", code="has_rights")
        if not yes and not _confirmed():
            raise Conflict("nothing was erased; add --yes", code="not_confirmed")
        rows = await subject.erase(user_id, action, forfeit=forfeit)
        await _wait_until_cleared(subject, user_id)
        return rows

    rows = run_opened(env_file, work)
    erased = {name: number for name, number in rows.items() if not HELD[name].is_kept}
    said = "erased; gateways have forgotten the user. BTCPay Server keeps its own records"
    print_done({"erased": erased}, said, as_json=as_json)


def _confirmed() -> bool:
    return sys.stdin.isatty() and typer.confirm("Erase this user for ever?", err=True)


def _show(preview: ErasurePreview, *, forfeit: bool) -> None:
    """Show what would be done, beside what the command prints in the end."""
    out = aside()
    rows = [
        (name, str(number), "money kept under a pseudonym" if HELD[name].is_kept else "deleted")
        for name, number in preview.rows.items()
        if number
    ]
    table(out, ("TABLE", "ROWS", "WHAT BECOMES OF THEM"), rows)
    for sentence in preview.open_refunds:
        line(out, f"  refused: {sentence}")
    for sentence in preview.forfeits:
        line(out, f"  {'given up' if forfeit else 'refused'}: {sentence}")


async def _wait_until_cleared(subject: DataSubjects, user_id: UserId) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + CLEARED_WITHIN
    while not await subject.is_cleared(user_id):
        if loop.time() > until:
            raise NotCleared(
                "the user is erased, but gateways still know the user: no daemon has published it for"
                f" {CLEARED_WITHIN:.0f} s. The next one that reaches the broker does"
            )
        await asyncio.sleep(LOOK_EVERY)


def _subjects(at: OpenedServices) -> DataSubjects:
    return DataSubjects(pool=at.pool, btcpay=at.btcpay, clock=utc_now)
