"""``webhook``: BTCPay's webhook to us, made and fixed over its API; no secret is stored or shown twice."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from kosmo_billing_daemon.admin.checks import webhooks
from kosmo_billing_daemon.admin.checks.webhooks import Registered
from kosmo_billing_daemon.assembly.connections import btcpay_of
from kosmo_billing_daemon.btcpay.administration import RegisteredWebhook
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, new_file, own_path, run
from kosmo_billing_daemon.cli.opened import load
from kosmo_billing_daemon.cli.rendering import console, line, print_json, print_rows
from kosmo_billing_daemon.contract.paths import WEBHOOK
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.settings import Settings


def list_(as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """List the store's webhooks, and what keeps those that lead to us from doing their work."""
    loaded = load(env_file)

    async def work() -> list[RegisteredWebhook]:
        async with btcpay_of(loaded) as client:
            return await client.list_webhooks()

    found = run(work())
    address = loaded.webhook.public_url
    mine = {hook.id for hook in webhooks.ours(found, address)}
    rows = [
        (
            hook.id,
            hook.url,
            "ours" if hook.id in mine else "another's",
            ("; ".join(webhooks.defects(hook, address)) or "as it should be") if hook.id in mine else "-",
        )
        for hook in found
    ]
    told = [_webhook_json(hook, address, ours=hook.id in mine) for hook in found]
    print_rows(told, ("WEBHOOK", "ADDRESS", "WHOSE", "STATE"), rows, as_json=as_json)


def register(
    url: Annotated[
        str | None, typer.Option(help="Where BTCPay reaches our webhook; else the setting WEBHOOK_URL.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-file",
            callback=own_path,
            help="Write a new secret to this new file (mode 0600), not to the screen.",
        ),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--new-secret", help="Give the webhook a new secret, whatever it has.")
    ] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Create the webhook, or fix it; a repeat changes nothing.

    With WEBHOOK_SECRET set the webhook gets that secret. Otherwise a new webhook gets a new one, which is
    printed once or written to --secret-file; put it into WEBHOOK_SECRET and restart the daemon.
    """
    loaded = load(env_file)
    address = _address(url, loaded)
    known = None if renew or not loaded.webhook.secrets else loaded.webhook.secrets[0].get_secret_value()

    async def work() -> tuple[Registered, str | None]:
        async with btcpay_of(loaded) as client:
            exists = bool(webhooks.ours(await client.list_webhooks(), address))
            fresh = webhooks.new_secret() if known is None and (renew or not exists) else None
            with _kept(fresh, secret_file):
                return await webhooks.register(client, address, secret=known, fresh=fresh), fresh

    done, fresh = run(work())
    shown = None if secret_file is not None else done.secret
    if as_json:
        told = {
            **_webhook_json(done.webhook, address, ours=True),
            "created": done.is_new,
            "fixed": done.fixed,
            "surplus": done.surplus,
        }
        print_json(told if shown is None else {**told, "secret": shown})
    else:
        _tell(done, shown, secret_file if fresh else None, keeps=known is None and fresh is None)


def _address(url: str | None, loaded: Settings) -> str:
    address = url or loaded.webhook.public_url
    if address is None:
        raise Invalid(
            "where does BTCPay reach us? set WEBHOOK_URL or give --url, such as"
            f" https://api.example.org{WEBHOOK}"
        )
    if not address.startswith(("https://", "http://")):
        raise Invalid(f"{address} is no http or https address")
    return address


@contextlib.contextmanager
def _kept(secret: str | None, path: Path | None) -> Iterator[None]:
    """Write the secret before BTCPay has it, so that it cannot be lost; removed again on failure."""
    if secret is None or path is None:
        yield
        return
    with new_file(path) as file:
        file.write(secret + "\n")
        file.flush()
        yield


def _webhook_json(hook: RegisteredWebhook, address: str | None, *, ours: bool) -> dict[str, Any]:
    return {
        "id": hook.id,
        "url": hook.url,
        "ours": ours,
        "enabled": hook.enabled,
        "automatic_redelivery": hook.automatic_redelivery,
        "events": "all" if hook.everything else list(hook.events),
        "defects": list(webhooks.defects(hook, address)) if ours else [],
    }


def _tell(done: Registered, shown: str | None, written: Path | None, *, keeps: bool) -> None:
    out = console()
    what = "created" if done.is_new else ("fixed" if done.fixed else "is as it should be")
    line(out, f"webhook {done.webhook.id} to {done.webhook.url} {what}")
    for defect in done.fixed:
        line(out, f"  fixed: {defect}")
    for other in done.surplus:
        line(
            out,
            f"  another webhook of the same address makes deliveries come twice: remove {other} in BTCPay",
        )
    if shown is not None:
        line(out, f"WEBHOOK_SECRET={shown}")
        line(out, "it is not shown again: keep it as the credential WEBHOOK_SECRET and restart the daemon")
    elif written is not None:
        line(
            out,
            f"its new secret is in {written}: make it the credential WEBHOOK_SECRET and restart the daemon",
        )
    elif keeps:
        line(out, "it keeps its secret, which BTCPay does not show; --new-secret gives it another")


app = typer.Typer(help="BTCPay's webhook to us.", no_args_is_help=True)
app.command()(register)
app.command("list")(list_)
