"""``kosmo-billing``: thin commands; each parses, makes one call, and renders.

Reading order: commands (where each is found), frame (exit codes, options, how a command runs), serving,
playing; then what operators use: opened (their surroundings), rendering and explaining (how results look),
and one module a command.
"""

import sys

import typer

from kosmo_billing_daemon.cli.commands import Commands
from kosmo_billing_daemon.cli.frame import EX_FAILED, EX_UNAVAILABLE, fail_with_problems
from kosmo_billing_daemon.errors import Misconfigured, Refused, Unavailable

HELP = """Sells KosmoConnect plans through BTCPay Server and tells gateways over MQTT what users may do.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 69 something needed is away, 78 bad settings.
"""

app = typer.Typer(
    name="kosmo-billing",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Say nothing; options belong to commands."""


def main() -> None:
    """Run a command; expected errors end in one clear message and their exit code."""
    try:
        app(prog_name="kosmo-billing")
    except Misconfigured as error:
        fail_with_problems(error)
    except Refused as error:
        typer.echo(f"kosmo-billing: {error.message}", err=True)
        sys.exit(EX_FAILED)
    except Unavailable as error:
        typer.echo(f"kosmo-billing: {error.message}", err=True)
        sys.exit(EX_UNAVAILABLE)
