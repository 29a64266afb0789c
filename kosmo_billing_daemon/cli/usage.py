"""``usage``: gateways that report what no mesh can carry, and taking back what they counted."""

from typing import Annotated, Any

import typer
from rich.console import Console

from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.admin.reporters import ReporterActions
from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.opened import by, run_opened
from kosmo_billing_daemon.cli.rendering import command, console, line, print_done, print_needed, print_rows
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store import reporters
from kosmo_billing_daemon.store.reporters import ReporterCase


def void(
    reporter: Annotated[str, typer.Option(metavar="NAME", help="The gateway's MQTT user name.")],
    since: Annotated[str, typer.Option(metavar="TIME", help="As 2026-03-01T12:00Z; UTC if unsaid.")],
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Take back what a broken or stolen gateway counted: quotas return, payments stay as they are.

    Disable its account at the broker first, or it goes on. A repeat changes nothing.
    """
    begin = read_time(since, "since")

    voided = run_opened(
        env_file, lambda at: ReporterActions(pool=at.pool, clock=utc_now).void(reporter, begin, by(reason))
    )
    print_done(voided, f"{voided.messages} messages of {voided.users} users were taken back", as_json=as_json)


def cases(
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List gateways that reported more than USAGE_MESSAGES_PER_MINUTE or USAGE_USERS_PER_MINUTE allow."""
    found = run_opened(env_file, lambda at: at.pool.read(reporters.load_cases, limit))
    rows = [(str(c.id), c.reporter, when(c.opened_at), when(c.last_at), c.detail) for c in found]
    print_rows(found, ("CASE", "GATEWAY", "FIRST", "LAST", "REPORTED"), rows, as_json=as_json)
    if found and not as_json:
        line(console(), "to take back what one counted: kosmo-billing usage void")


def _ways_out(case: ReporterCase) -> list[tuple[str, str]]:
    """Return what an operator can do about a gateway: in words, and the command."""
    since = case.opened_at.strftime("%Y-%m-%dT%H:%MZ")
    void = ("usage", "void", "--reporter", case.reporter, "--since", since, "--reason", "TICKET")
    return [
        ("disable its account at the broker, then take back what it counted", command(*void)),
        ("if it may report as much", command("usage", "close", str(case.id), "--reason", "TICKET")),
    ]


def print_reporter(out: Console, case: ReporterCase) -> None:
    """Print a gateway that reported too much, and what to do."""
    said = (f"{case.reporter}: {case.detail}", f"since {when(case.opened_at)}, last {when(case.last_at)}")
    print_needed(out, f"gateway case {case.id}  reports too much", said, _ways_out(case))


def reporter_json(case: ReporterCase) -> dict[str, Any]:
    """Describe a gateway that reported too much, for machines."""
    return {
        "kind": "reporter",
        "gateway_case": case.id,
        "reporter": case.reporter,
        "detail": case.detail,
        "opened_at": case.opened_at,
        "last_at": case.last_at,
        "commands": [{"when": what, "command": how} for what, how in _ways_out(case)],
    }


def close(
    case: Annotated[int, typer.Argument(metavar="CASE", help="The case's number.", min=1, max=2**63 - 1)],
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Close a case about a gateway; if it goes on, another one opens."""
    reporter = run_opened(
        env_file, lambda at: ReporterActions(pool=at.pool, clock=utc_now).close_case(case, by(reason))
    )
    document = {"case": case, "reporter": reporter, "closed": True}
    print_done(document, f"case {case} of {reporter} is closed", as_json=as_json)


app = typer.Typer(help="Gateways that report too much, and what they counted.")
app.command()(void)
app.command()(cases)
app.command()(close)
