"""``check``: what is wrong with the surroundings, each line ✓, or ✗ with what to do, or a note."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from kosmo_billing_daemon import __version__
from kosmo_billing_daemon.admin.checks import Finding, broker, btcpay, database
from kosmo_billing_daemon.assembly.connections import broker_of, btcpay_of, database_of, read_catalogue
from kosmo_billing_daemon.cli.frame import EX_CONFIG, EX_FAILED, AsJson, EnvFile, own_path, read_password, run
from kosmo_billing_daemon.cli.opened import load
from kosmo_billing_daemon.cli.rendering import console, print_json, printable
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Misconfigured, Unavailable
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.settings import Settings, WebhookTrust
from kosmo_billing_daemon.store.postgres import Pool

START = (
    "journalctl -u kosmo-billing says why; then: systemctl reset-failed kosmo-billing.socket"
    " kosmo-billing.service; systemctl enable --now kosmo-billing"
)
_LONGEST_ANSWER = 1024 * 1024
ANSWER_WITHIN = 5.0  # seconds for the daemon's own health
_WRONG_PORT = "is PORT right?"
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")  # made by systemd-timesyncd, if it runs

GatewayUser = Annotated[
    str | None,
    typer.Option(
        "--gateway-username",
        envvar="CHECK_GATEWAY_USERNAME",
        help="Make sure that this account of a gateway cannot write entitlements.",
    ),
]
GatewayPassword = Annotated[
    Path | None,
    typer.Option(
        "--gateway-password-file",
        callback=own_path,
        help="Its password (- reads it here); else CHECK_GATEWAY_PASSWORD.",
    ),
]


def check(
    context: typer.Context,
    *,
    gateway_username: GatewayUser = None,
    gateway_password_file: GatewayPassword = None,
    gateway_password: Annotated[
        str | None,
        typer.Option(envvar="CHECK_GATEWAY_PASSWORD", hidden=True, show_envvar=False, show_default=False),
    ] = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Say what is wrong with settings, database, broker, BTCPay, webhook and clock, and how to fix it.

    Exit code 0: all is well. 1: something is wrong. 78: the settings cannot be read.
    """
    out = console()
    try:
        loaded = load(env_file)
        read_catalogue(loaded.plans_file)
        broker_of(loaded.mqtt)
    except Misconfigured as error:
        findings = [Finding("settings", False, problem, error.advice) for problem in error.problems]
        if as_json:
            _print_json(findings)
        else:
            for finding in findings:
                _print(out, finding)
        raise typer.Exit(EX_CONFIG) from error
    password = gateway_password if gateway_password_file is None else read_password(gateway_password_file)

    async def work() -> list[Finding]:
        found = []
        async for finding in _all(loaded, gateway_username, password):
            found.append(finding)
            if not as_json:
                _print(out, finding)
        return found

    findings = run(work())
    wrong = [finding for finding in findings if finding.ok is False]
    if as_json:
        _print_json(findings)
    else:
        said = f"{len(wrong)} problem{'s' if len(wrong) > 1 else ''} found" if wrong else "all is well"
        out.print(Text(said, style="bold"))
    if wrong:
        context.exit(EX_FAILED)


async def _all(loaded: Settings, gateway: str | None, password: str | None) -> AsyncIterator[Finding]:
    yield Finding("settings", True, "the settings are complete")
    for told in (*loaded.database.ignored, *loaded.warnings):
        yield Finding("settings", None, told)
    if loaded.webhook.trust is WebhookTrust.BODY:
        fact = "WEBHOOK_TRUST=body: whoever reaches the port can write paid invoices"
        yield Finding("settings", False, fact, "for anything but a trial set WEBHOOK_TRUST=btcpay")
    async with Pool(database_of(loaded)) as pool:
        async for finding in database.inspect(pool, utc_now):
            yield finding
        leads: bool | None = None
        with contextlib.suppress(Unavailable):
            leads = await database.is_led(pool)
        account = None if gateway is None else broker.as_account(broker_of(loaded.mqtt), gateway, password)
        async for finding in _broker(loaded, pool, account, leads=leads):
            yield finding
    if account is not None:
        topics = Topics(loaded.mqtt.prefix)
        async for finding in broker.inspect_as_gateway(account, topics, leads=bool(leads)):
            yield finding
    else:
        fact = "whether the daemon gets the reports of gateways was not tried"
        advice = "set CHECK_GATEWAY_USERNAME and CHECK_GATEWAY_PASSWORD to a gateway's account"
        yield Finding(broker.PART, None, fact, advice)
    async with btcpay_of(loaded) as client:
        signed = bool(loaded.webhook.secrets)
        async for finding in btcpay.inspect(client, loaded.webhook.public_url, signed=signed):
            yield finding
    if not _is_synchronized():
        yield Finding("clock", False, "this host's clock is not synchronized", "see: timedatectl status")


def _is_synchronized() -> bool:
    """Say whether this host's clock is set by NTP, as far as systemd-timesyncd tells."""
    return _SYNCHRONIZED.exists() or not _SYNCHRONIZED.parent.is_dir()


async def _broker(
    loaded: Settings, pool: Pool, gateway: Broker | None, *, leads: bool | None
) -> AsyncIterator[Finding]:
    """Look at daemon and broker; ``leads`` is ``None`` where the database cannot say whether one leads."""
    if leads:
        published = await broker.inspect_beside_daemon(pool, utc_now)
        for finding in await asyncio.to_thread(_health, loaded):  # after it: a refusal is told there
            yield finding
        yield published
        return
    if leads is None:
        yield Finding("daemon", None, "without the database no daemon can lead")
    else:
        yield Finding("daemon", False, "no daemon leads: it is stopped, or failed", START)
    connection, topics = broker_of(loaded.mqtt), Topics(loaded.mqtt.prefix)
    async for finding in broker.inspect_as_daemon(connection, topics, utc_now, __version__, gateway):
        yield finding


def _health(loaded: Settings) -> list[Finding]:
    """Ask the daemon on this host how it is; another one may lead, so no answer is only a note."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(loaded.http.host, loaded.http.host)  # noqa: S104  looked up, not listened on
    url = f"http://{f'[{host}]' if ':' in host else host}:{loaded.http.port}/health/ready"
    try:
        body = _fetched(url)
    except TimeoutError:
        fact = f"the daemon at {url} is silent for {ANSWER_WITHIN:.0f} s: it is frozen, or far too busy"
        return [Finding("daemon", False, fact, "systemctl restart kosmo-billing")]
    except HTTPException:
        return [Finding("daemon", False, f"something else answers at {url}", _WRONG_PORT)]
    except OSError as error:
        return [Finding("daemon", None, f"a daemon leads, but none answers at {url} ({error})")]
    try:
        told: dict[str, Any] = json.loads(body)
        checks: dict[str, dict[str, Any]] = told["checks"]
        found = [(name, bool(c["ok"]), str(c["detail"])) for name, c in checks.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Finding("daemon", False, f"something else answers at {url}", _WRONG_PORT)]
    wrong = [Finding("daemon", False, f"{name}: {detail}") for name, ok, detail in found if not ok]
    return wrong or [Finding("daemon", True, f"the daemon at {url} is {told.get('status')}")]


def _fetched(url: str) -> bytes:
    """Return what a server on this host answers, whatever the status; no proxy knows this host."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=ANSWER_WITHIN) as response:
            return bytes(response.read(_LONGEST_ANSWER))
    except urllib.error.HTTPError as error:
        with error:
            return error.read(_LONGEST_ANSWER)
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else OSError(error.reason) from error


def _print_json(findings: list[Finding]) -> None:
    print_json({"ok": all(f.ok is not False for f in findings), "findings": findings})


def _writes_signs(out: Console) -> bool:
    """Say whether the terminal has our signs; one of latin-1 or ASCII has not."""
    try:
        "✓✗·→".encode(out.encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _print(out: Console, finding: Finding) -> None:
    right, wrong, note, arrow = ("✓", "✗", "·", "→") if _writes_signs(out) else ("ok", "NO", "--", "->")
    sign, style = {True: (right, "green"), False: (wrong, "bold red"), None: (note, "yellow")}[finding.ok]
    text = Text.assemble((sign, style), f" {finding.part:<8} {printable(finding.fact)}")
    out.print(text, soft_wrap=True)
    if finding.advice:
        out.print(Text(f"    {arrow} {printable(finding.advice)}"), soft_wrap=True)
