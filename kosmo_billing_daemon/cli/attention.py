"""``attention``: payments and gateways that need it, each case with the commands that settle it."""

from typing import Annotated, Any

import typer
from rich.console import Console

from kosmo_billing_daemon.admin.attention import load
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.explaining import money, when
from kosmo_billing_daemon.cli.frame import NAMES_A_USER, AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import (
    case_json,
    command,
    console,
    line,
    print_case,
    print_done,
    print_json,
    print_needed,
    print_set_aside,
    set_aside_json,
)
from kosmo_billing_daemon.cli.usage import print_reporter, reporter_json
from kosmo_billing_daemon.domain.hooks import without_query
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.hooks import Hook
from kosmo_billing_daemon.store.listings import ListedCase


def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List open cases, oldest first, with the commands that settle each.

    Then gateways that report too much, and what is set aside or off.
    """
    if context.invoked_subcommand is not None:
        return

    found = run_opened(env_file, lambda at: load(at.pool, utc_now, limit))
    if as_json:
        payments, gateways = map(case_json, found.cases), map(reporter_json, found.gateways)
        print_json([*payments, *gateways, *map(set_aside_json, found.set_aside), *map(_off_json, found.off)])
        return
    out = console()
    for case in found.cases:
        print_case(out, case)
        out.print()
    for gateway in found.gateways:
        print_reporter(out, gateway)
        out.print()
    for one in found.set_aside:
        print_set_aside(out, one)
        out.print()
    for hook in found.off:
        _print_off(out, hook)
        out.print()
    line(out, f"{len(found.cases)} open" if found.cases else "no payment needs attention")
    if found.gateways:
        line(out, f"{len(found.gateways)} about gateways")
    if found.set_aside:
        line(out, f"{len(found.set_aside)} set aside, which the daemon tries again by itself")


Number = Annotated[int, typer.Argument(metavar="CASE", help="The case's number.", min=1, max=2**63 - 1)]


def close(
    case: Number,
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Close a case without giving any rights, as after a refund."""
    closed = run_opened(env_file, lambda at: CaseActions(pool=at.pool, clock=utc_now).close(case, by(reason)))
    whose = "" if closed.user_id is None else f" of user {closed.user_id}"
    said = f"case {closed.number} ({closed.kind}){whose} is closed"
    print_done({"case": closed.number, "closed": True}, said, as_json=as_json)


def give(
    case: Number,
    *,
    user: Annotated[str, typer.Option("--user", metavar="USER", help=f"Who paid it. {NAMES_A_USER}")],
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Give the money of an unknown or twice paid order to a user, as credit; that closes the case."""

    async def work(at: OpenedServices) -> tuple[ListedCase, UserId]:
        user_id = await at.user(user)
        return await CaseActions(pool=at.pool, clock=utc_now).give(case, user_id, by(reason)), user_id

    given, user_id = run_opened(env_file, work)
    total = money(given.undecided, given.currency)
    said = f"{total} are credit of user {user_id}; case {given.number} is closed"
    print_done({"case": given.number, "closed": True, "user_id": user_id}, said, as_json=as_json)


def _print_off(out: Console, hook: Hook) -> None:
    """Print a hook that was switched off, and what to do."""
    said = f"{without_query(hook.url)} since {when(hook.off_since)}: {hook.off_because}"
    ways = [(what, command("hook", words, str(hook.id))) for what, words in _WAYS_OUT]
    print_needed(out, f"hook {hook.id}  switched off", [said], ways)


def _off_json(hook: Hook) -> dict[str, Any]:
    """Describe a hook that was switched off, for machines."""
    return {
        "kind": "hook_off",
        "hook": hook.id,
        "url": without_query(hook.url),
        "detail": hook.off_because,
        "opened_at": hook.off_since,
        "commands": [command("hook", words, str(hook.id)) for _, words in _WAYS_OUT],
    }


_WAYS_OUT = (
    ("see whether it accepts again", "test"),
    ("then send what it missed", "replay"),
    ("if it is not needed any more", "remove"),
)


app = typer.Typer(help="Payments that need attention, and the commands that settle them.")
app.callback(invoke_without_command=True)(list_)
app.command()(close)
app.command()(give)
