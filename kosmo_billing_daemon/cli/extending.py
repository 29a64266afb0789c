"""``user extend``: gives time, to one user or to everybody, such as after an outage."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kosmo_billing_daemon.admin import explaining
from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.admin.extending import MOST_DAYS, Extended, ExtensionPreview
from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.cli.frame import NAMES_A_USER, AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.progress import long_work
from kosmo_billing_daemon.cli.rendering import (
    aside,
    console,
    line,
    print_done,
    print_json,
    purchase_json,
    table,
)
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.errors import Invalid


def extend(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help=NAMES_A_USER)] = None,
    *,
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How many days are given.")],
    reason: Reason,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Also plans that ended since then, as 2026-03-01T12:00Z: they go on from now.",
        ),
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody who has a plan now.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what --all would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Lengthen the current plan of a user, or with --all of everybody, such as after an outage.

    It adds time and no messages, and changes the worth of nothing that was paid. With --since, a
    plan that ended since then goes on from now, with the messages that were left. So many days are given to a
    user once for the same reason: --all that was interrupted continues with the same command.
    """
    if everybody == (user is not None):
        raise Invalid("name a user, or give --all", field="user")
    from_ = None if since is None else read_time(since, "since")
    if user is not None:
        if preview:
            raise Invalid("--preview is for --all")
        _extend_one(user, days, reason, from_, env_file, as_json=as_json)
        return
    action = by(reason)

    if preview or not yes:
        found = run_opened(env_file, lambda at: at.extending.preview_all(days, reason, since=from_))
        if preview and as_json:
            print_json(_preview_json(found))
            return
        _print_preview(found, to_stderr=not preview)
        if preview:
            return
        if not found.users:
            return
        if not sys.stdin.isatty():
            raise Invalid("nobody can answer here: add --yes to do it")
        if not typer.confirm(f"Give {days} days to {found.users} users?", err=True):
            raise typer.Exit(1)

    async def work(at: OpenedServices) -> Extended:
        total = (await at.extending.preview_all(days, reason, since=from_)).users
        with long_work() as shown:
            shown.begin("extending", total)
            return await at.extending.extend_all(days, action, shown.done, since=from_)

    done = run_opened(env_file, work)
    if as_json:
        failed = [{"user_id": user_id, "why": why} for user_id, why in done.failed.items()]
        print_json({"users": done.users, "failed": failed})
    else:
        line(console(), f"{done.users} users have {days} days more")
        for user_id, why in done.failed.items():
            line(aside(), f"not extended: user {user_id}: {why}")
    if done.failed:
        line(aside(), "run the same command again for those who were left out")
        raise typer.Exit(1)


def _extend_one(
    user: str, days: int, reason: str, since: datetime | None, env_file: Path | None, *, as_json: bool
) -> None:
    async def work(at: OpenedServices) -> Subscription:
        return await at.extending.extend(await at.user(user), days, by(reason), since=since)

    row = run_opened(env_file, work)
    said = f"extended: {row.plan.plan_type} until {when(row.valid_until)}, subscription {row.id}"
    print_done(purchase_json(row), said, f"  {explaining.purchase(row)}", as_json=as_json)


def _print_preview(found: ExtensionPreview, *, to_stderr: bool) -> None:
    """Say who is meant and until when; before a question, on standard error like the question."""
    out = aside() if to_stderr else console()
    if found.begun is not None and found.begun.all_at is not None:
        line(out, f"begun {when(found.begun.all_at)}: {found.begun.users} users have it already")
    for other in found.lately:
        when_ = when(other.all_at)
        line(out, f"note: {other.days} days were given to {other.users} users {when_}: {other.reason}")
    rows = [
        (
            f"{plan.plan_type}, ended" if plan.is_over else plan.plan_type,
            str(plan.users),
            when(plan.first_end + found.time),
            when(plan.last_end + found.time),
        )
        for plan in found.plans
    ]
    table(out, ("PLAN", "USERS", "NEW ENDS FROM", "TO"), rows)
    if beyond := sum(plan.beyond for plan in found.plans):
        line(out, f"{beyond} of them will end more than 400 days ahead: until then they cannot renew")
    if found.ended:
        line(out, f"{found.ended} of them have a plan that has ended: it goes on from now")
    line(out, f"{found.users} users to extend")


def _preview_json(found: ExtensionPreview) -> dict[str, Any]:
    return {
        "users": found.users,
        "plans": [
            {
                "plan_type": plan.plan_type,
                "users": plan.users,
                "first_end": plan.first_end + found.time,
                "last_end": plan.last_end + found.time,
                "beyond_cap": plan.beyond,
                "is_over": plan.is_over,
            }
            for plan in found.plans
        ],
        "begun_at": None if found.begun is None else found.begun.all_at,
        "extended_before": 0 if found.begun is None else found.begun.users,
    }
