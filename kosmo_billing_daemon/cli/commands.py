"""Which commands there are, and where each is found.

The rule it keeps: a command's module is imported when the command is called, so the daemon does not carry
what only operators need, and a short command starts fast. Help and a mistyped name load them all.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

_FOUND = {
    "demo": "playing:demo",
    "serve": "serving:serve",
    "migrate": "serving:migrate",
    "adopt": "adopting:app",
    "check": "checking:check",
    "webhook": "webhooks:app",
    "hook": "hooks:app",
    "user": "users:app",
    "invoices": "invoices:app",
    "deliveries": "deliveries:app",
    "attention": "attention:app",
    "usage": "usage:app",
    "leases": "leases:app",
    "refund": "refunds:app",
    "ledger": "ledger:app",
    "console": "console:console",
    "reconcile": "upkeep:reconcile",
    "republish": "upkeep:republish",
    "watch": "watching:watch",
    "version": "serving:version",
}
"""Name -> module and its function, or its group of commands; in the order that help shows."""


class Commands(TyperGroup):
    """The group of all commands."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  given
        return list(_FOUND)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, or ``None``; then typer suggests from ``self.commands``."""
        for name in [cmd_name] if cmd_name in _FOUND else _FOUND:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return super().get_command(ctx, cmd_name)


def _load(name: str) -> Any:  # a command as typer builds them, a class it keeps to itself
    module, _, attribute = _FOUND[name].partition(":")
    found = getattr(import_module(f"kosmo_billing_daemon.cli.{module}"), attribute)
    around = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return get_group(around).commands[name]
