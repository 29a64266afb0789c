"""The man page, made from the command line itself, so that it cannot tell of other commands or options.

After a change of the command line: ``python -m tests.cli.man``.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.cli import app

FILE = Path(__file__).parents[2] / "systemd" / "kosmo-billing.1"

_HEAD = r""".TH KOSMO-BILLING 1 "" "kosmo-billing {version}" "KosmoConnect billing"
.SH NAME
kosmo-billing \- sells KosmoConnect plans through BTCPay Server and tells gateways over MQTT what users may do
.SH SYNOPSIS
.B kosmo-billing
.I COMMAND
[\fIOPTION\fR ...]
.SH DESCRIPTION
{about}
On an installed host run it with
.BR sudo (8):
it becomes the service's user, with the service's settings and secrets.
.SH COMMANDS
"""
_TAIL = r""".SH EXIT STATUS
0 done; 1 failed or refused; 2 wrong usage; 69 a dependency is unreachable; 78 wrong settings.
.SH FILES
.TP
.I /etc/kosmo-billing/kosmo-billing.env
Settings; /usr/share/kosmo-billing/kosmo-billing.env explains each.
.TP
.I /etc/kosmo-billing/credentials/
One file per secret, named like its variable.
.TP
.I /usr/share/doc/kosmo-billing/
How to install, operate and back up; Mosquitto, Prometheus and Grafana files.
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1),
.BR mosquitto.conf (5)
"""


def page() -> str:
    """Return the page as the file holds it."""
    root: Any = typer.main.get_command(app)
    commands = "".join(_command(path, command) for path, command in _commands(root, ()))
    return _HEAD.format(version=__version__, about=_text(root.help.split("Exit codes")[0])) + commands + _TAIL


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if command.hidden:
            continue
        if hasattr(command, "list_commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join(rf"\fI{_text((one.metavar or one.name).upper())}\fR" for one in arguments)
    told = (
        f".SS {_text(' '.join(path))} {usage}".rstrip() + f"\n{_text(inspect.cleandoc(command.help or ''))}\n"
    )
    for one in options:
        names = ", ".join(rf"\fB{_text(name)}\fR" for name in (*one.opts, *one.secondary_opts))
        value = "" if one.is_flag else rf" \fI{_text(one.metavar or one.name.upper())}\fR"
        told += f".TP\n{names}{value}\n{_text(one.help or '')}\n"
    return told


def _text(text: str) -> str:
    """Plain text as roff: no line of it may be taken for a request."""
    plain = re.sub(r"\s*\n\s*", "\n", text.strip()).replace("\\", r"\e").replace("-", r"\-").replace("``", "")
    return re.sub(r"(?m)^([.'])", r"\\&\1", plain)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
