"""The demo: everything on this machine, nothing left behind."""

import asyncio
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kosmo_billing_daemon.cli.frame import caller, run, stopped_by_signals
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.errors import Invalid, Unavailable
from kosmo_billing_daemon.runtime import logs


class BrokerKind(StrEnum):
    """The brokers that the demo can start."""

    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


def demo(
    port: Annotated[int, typer.Option(help="Port of the API; 0 takes a free one.", min=0, max=65535)] = 8004,
    data_dir: Annotated[
        str | None, typer.Option(help="Keep the database here; otherwise everything is temporary.")
    ] = None,
    broker: Annotated[
        BrokerKind | None,
        typer.Option(help="The broker; otherwise Mosquitto if it is installed, else amqtt."),
    ] = None,
    cases: Annotated[
        bool,
        typer.Option(
            "--cases", help="Begin with ten payments that need a decision, to practise on; CREDIT is off."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line with the URLs when ready, nothing else.")
    ] = False,
) -> None:
    """Run everything on this machine, with a page to see it. No root needed."""
    if caller() is not None:
        raise Invalid("the demo is not for the service's account: run it without sudo")
    if (
        data_dir == ""
    ):  # "$DIR" of a shell in which it is not set; Path would take it for the current directory
        raise Invalid("--data-dir is empty: name a directory, or leave the option out")
    directory = None if data_dir is None else Path(data_dir)
    try:
        from kosmo_billing_daemon.demo.stage import DemoStage  # noqa: PLC0415 - needs the extra "demo"
    except ImportError as error:
        raise Unavailable(
            f"{error.name} is missing; the demo needs its extra: pip install 'kosmo-billing-daemon[demo]'"
        ) from None
    logs.configure(logs.Format.TEXT, logs.Level.WARNING if as_json else logs.Level.INFO)

    async def play() -> None:
        stop = asyncio.Event()
        with stopped_by_signals(stop):
            async with DemoStage(port=port, data_dir=directory, broker=broker, has_cases=cases) as stage:
                announce = _announce_json if as_json else _announce
                announce(stage.urls)
                await stage.until_ended(stop)

    run(play())


def _announce_json(urls: dict[str, str]) -> None:
    typer.echo(json.dumps(urls))
    sys.stdout.flush()


def _announce(urls: dict[str, str]) -> None:
    user = "11111111-1111-1111-1111-111111111111"
    typer.echo(
        f"""
The demo runs. Ctrl-C ends it and everything it started.

  Console   {urls["console"]}   (open this: everything on one page)
  Operator  {urls["operator"]}   (logs you in once)
  API       {urls["api"]}
  BTCPay    {urls["btcpay"]}   (a simulator)
  Gateway   {urls["gateway"]}   (from the web to the mesh, with the gate)
  MQTT      {urls["mqtt"]}
  Database  {urls["database"]}

Or by hand. Buy a plan:
  curl -X POST {urls["api"]}{API}/invoices -H "X-User-ID: {user}" \\
    -d '{{"plan_type": "wanderer", "redirect_url": "https://kosmoconnect.local/thank-you"}}'
Pay it: open the checkout_url it returns, or with its invoice_id
  curl -X POST {urls["btcpay"]}/simulate/invoices/INVOICE_ID -d '{{"action": "pay", "method": "BTC-LN"}}'
See what the user may do:
  curl {urls["api"]}{API}/subscription -H "X-User-ID: {user}"
Send a message; the gateway counts it, or refuses it with the reason:
  curl -X POST {urls["gateway"]}/send \\
    -d '{{"user_id": "{user}", "node_id": "!a1b2c3d4", "text": "hello mesh"}}'
"""
    )
    sys.stdout.flush()
