"""The environment file that we ship, made from the settings: the description and default of each.

Run it after a change of ``settings/tree.py``: python -m tests.settings.generate
"""

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

from kosmo_billing_daemon.settings import Proxies, tree

TARGET = Path(__file__).parents[2] / "config" / "kosmo-billing.env"
WIDTH = 106

HEAD = """\
# Settings of kosmo-billing: every variable with its default, or with an example if it has none.
#
# Later sources win: defaults, this file (named in ENV_FILE, or as EnvironmentFile= of the unit), the
# environment, the files of $CREDENTIALS_DIRECTORY. An empty value means unset.
#
# Quotes: 'literal', or "with \\" \\\\ \\$ escaped"; without quotes a backslash must be doubled. A $ is a $.
#
# Secrets should be credentials, one file each, named like the variable:
#   BTCPAY_API_KEY  WEBHOOK_SECRET  DATABASE_PASSWORD  MQTT_PASSWORD
# A credential named MQTT_TLS_CA, MQTT_TLS_CERT, MQTT_TLS_KEY or JWT_KEY_FILE is the file itself.
#
# `kosmo-billing check` says what is wrong and how to fix it.
"""
SECTIONS = {
    "BTCPAY_URL": "BTCPay",
    "WEBHOOK_SECRET": "Webhook",
    "DATABASE_URL": "PostgreSQL",
    "MQTT_URL": "MQTT",
    "HOST": "HTTP",
    "JWT_JWKS_URL": "Bearer tokens, with AUTH_MODE=jwt",
    "ADMIN_LISTEN": "Console",
    "PLANS_FILE": "Behaviour",
}
"""Headings, by the variable that comes first below each."""

UNITS = {"HOURS": timedelta(hours=1), "DAYS": timedelta(days=1)}


def environment_file() -> str:
    descriptions = _descriptions()
    text = HEAD
    for branch, name, variable in tree.walk():
        if variable.name in SECTIONS:
            text += f"\n# --- {SECTIONS[variable.name]} ".ljust(107, "-") + "\n"
        description = descriptions.get((branch.__name__, name))
        if description is not None:
            comment = textwrap.fill(description, WIDTH, initial_indent="# ", subsequent_indent="# ")
            text += f"\n{comment}\n"
        default = next(field.default for field in fields(branch) if field.name == name)
        text += f"#{variable.name}={variable.example or _written(variable.name, default)}\n"
    return text


def _descriptions() -> dict[tuple[str, str], str]:
    """The texts that follow fields, as nothing keeps them but the source."""
    found = {}
    branches = (node for node in ast.parse(inspect.getsource(tree)).body if isinstance(node, ast.ClassDef))
    for branch in branches:
        for field, following in pairwise(branch.body):
            match field, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[branch.name, name] = " ".join(text.split())
    return found


def _written(name: str, default: Any) -> str:
    match default:
        case None | () | frozenset() if not default:
            return ""
        case StrEnum() | str():
            return str(default)
        case Proxies():
            return ",".join([*map(str, default.networks), *(["unix"] if default.unix else [])])
        case tuple():
            return ",".join(map(str, default))
        case timedelta():
            return str(default // UNITS.get(name.rpartition("_")[2], timedelta(seconds=1)))
        case _:
            return "" if default is MISSING else f"{default:g}"


if __name__ == "__main__":
    TARGET.write_text(environment_file(), encoding="utf-8")
