"""BTCPay as an operator should know it: reachable, in step, and willing to do what we ask of it."""

from collections.abc import AsyncIterator
from typing import Final

from kosmo_billing_daemon.admin.checks import Finding
from kosmo_billing_daemon.admin.checks.webhooks import defects, ours
from kosmo_billing_daemon.btcpay.administration import DeliveryAttempt, RegisteredWebhook
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.btcpay.refunds import NEEDED as REFUNDS
from kosmo_billing_daemon.errors import Unavailable

PART = "btcpay"
REGISTER = "run: kosmo-billing webhook register"

NEEDED: Final = {
    "btcpay.store.cancreateinvoice": "open invoices",
    "btcpay.store.canviewinvoices": "see their payment",
    "btcpay.store.canviewstoresettings": "check the store",
    "btcpay.store.webhooks.canmodifywebhooks": "register the webhook",
}
_INCLUDES: Final = {
    "unrestricted": ("btcpay.store.canmodifystoresettings",),
    "btcpay.store.canmodifystoresettings": (
        "btcpay.store.canmanagepullpayments",
        "btcpay.store.canmodifyinvoices",
        "btcpay.store.canviewstoresettings",
        "btcpay.store.webhooks.canmodifywebhooks",
    ),
    "btcpay.store.canmodifyinvoices": ("btcpay.store.canviewinvoices", "btcpay.store.cancreateinvoice"),
    "btcpay.store.canviewstoresettings": ("btcpay.store.canviewinvoices",),
    "btcpay.store.canmanagepullpayments": (
        "btcpay.store.cancreatepullpayments",
        "btcpay.store.canarchivepullpayments",
    ),
    "btcpay.store.cancreatepullpayments": ("btcpay.store.cancreatenonapprovedpullpayments",),
}
"""Which permission brings which, as far as any of ours is concerned (BTCPay 2.4.1, AddPolicyDefinitions in
BTCPayServerServices.cs)."""


async def inspect(client: BtcpayClient, webhook_url: str | None, *, signed: bool) -> AsyncIterator[Finding]:
    """Look at server, key, store and webhook; ends early where nothing further can be seen."""
    try:
        server = await client.server_info()
    except BtcpayDenied as error:
        yield Finding(
            PART, False, error.message, "make a key under Account, API keys; put it in BTCPAY_API_KEY"
        )
        return
    except (Unavailable, BtcpayRefused) as error:
        yield Finding(PART, False, error.message, "is BTCPAY_URL right, and does BTCPay run?")
        return
    yield Finding(PART, True, f"BTCPay Server {server.version} answers")
    if server.synchronized:
        yield Finding(PART, True, "its nodes are in step with the chain")
    else:
        yield Finding(
            PART, False, "its nodes are behind the chain: no payment is seen", "wait until they are"
        )
    try:
        granted = await client.current_key()
        for finding in _permissions(granted, client.store_id):
            yield finding
        for part in (_store(client), _selling(client), _webhook(client, webhook_url, signed=signed)):
            async for finding in part:
                yield finding
    except (Unavailable, BtcpayRefused) as error:
        yield Finding(PART, False, error.message, "fix what the message names and check again")


def _permissions(granted: frozenset[str], store_id: str) -> list[Finding]:
    named = [permission.partition(":") for permission in granted]
    waiting = [name.strip().lower() for name, colon, store in named if not colon or store == store_id]
    have: set[str] = set()
    while waiting:
        have.add(name := waiting.pop())
        waiting += _INCLUDES.get(name, ())
    findings = []
    for name, use in (NEEDED | REFUNDS).items():
        if name in have:
            findings.append(Finding(PART, True, f"the key may {use} ({name})"))
            continue
        advice = f"make a key with {name} for this store and put it in BTCPAY_API_KEY"
        if name in REFUNDS:
            advice = f"to refund with kosmo-billing, make a key that has {name} too"
        ok = None if name in REFUNDS else False
        findings.append(Finding(PART, ok, f"the key may not {use} ({name})", advice))
    return findings


async def _store(client: BtcpayClient) -> AsyncIterator[Finding]:
    try:
        store = await client.fetch_store()
    except (BtcpayDenied, BtcpayRefused) as error:
        advice = "copy BTCPAY_STORE_ID from the store's settings; the key must be made for that store"
        yield Finding(PART, False, f"store {client.store_id}: {error.message}", advice)
        return
    yield Finding(PART, True, f"store {store.id} is {store.name!r}")
    if store.payment_tolerance:
        fact = f"the store takes payments that lack {store.payment_tolerance} % for complete"
        yield Finding(PART, None, fact, "set its payment tolerance to 0 if that is not meant")


async def _selling(client: BtcpayClient) -> AsyncIterator[Finding]:
    """Try what a purchase needs, without creating anything."""
    for call, fact, name in (
        (client.probe, "its invoices can be read", "reading invoices"),
        (client.try_creation, "a request to create an invoice reaches it", "creating an invoice"),
    ):
        try:
            await call()
        except (Unavailable, BtcpayRefused) as error:
            advice = (
                "every request below /api/v1/ must reach BTCPay unchanged, and the key must have the right"
            )
            yield Finding(PART, False, f"{name}: {error}", advice)
        else:
            yield Finding(PART, True, fact)
    advice = "set up a wallet for it in BTCPay: Wallets, or Lightning"
    try:
        methods = await client.payment_methods()
    except BtcpayDenied as error:
        yield Finding(PART, None, f"its payment methods cannot be seen: {error}")
        return
    enabled = [name for name, is_enabled in sorted(methods.items()) if is_enabled]
    if enabled:
        yield Finding(PART, True, f"the store takes {', '.join(enabled)}")
    elif methods:
        fact = f"each payment method of the store is disabled ({', '.join(sorted(methods))}): nobody can buy"
        yield Finding(PART, False, fact, "enable one in the store's settings")
    else:
        yield Finding(PART, False, "the store has no payment method: nobody can buy", advice)


async def _webhook(client: BtcpayClient, url: str | None, *, signed: bool) -> AsyncIterator[Finding]:
    try:
        hooks = await client.list_webhooks()
    except BtcpayDenied as error:
        yield Finding(PART, False, f"webhooks: {error.message}", "give the key that permission")
        return
    found = ours(hooks, url)
    if not found:
        elsewhere = ", ".join(hook.url for hook in ours(hooks, None))
        fact = f"no webhook leads to {url or 'us'}" + (f" (but to {elsewhere})" if elsewhere else "")
        yield Finding(PART, False, fact, REGISTER if url else f"set WEBHOOK_URL and {REGISTER}")
        return
    for hook in found:
        wrong = defects(hook, url)
        fact = f"webhook {hook.id} to {hook.url}"
        yield Finding(
            PART, not wrong, f"{fact}: {'; '.join(wrong) or 'as it should be'}", REGISTER if wrong else ""
        )
        async for finding in _deliveries(client, hook):
            yield finding
    if len(found) > 1 and url is not None:
        advice = "remove all but one in the store's settings, Webhooks"
        yield Finding(
            PART, False, f"{len(found)} webhooks lead to us: each delivery comes repeatedly", advice
        )
    if not signed:
        advice = "kosmo-billing webhook register --new-secret, then put it in WEBHOOK_SECRET"
        yield Finding(PART, None, "deliveries are not signed (WEBHOOK_SECRET is unset)", advice)


async def _deliveries(client: BtcpayClient, hook: RegisteredWebhook) -> AsyncIterator[Finding]:
    attempts = await client.list_deliveries(hook.id, 5)
    if not attempts:
        yield Finding(PART, True, "no delivery to it has failed (there was none yet)")
        return
    last = attempts[0]
    if last.succeeded:
        yield Finding(PART, True, f"its last delivery, {last.raised_at:%Y-%m-%d %H:%M} UTC, arrived")
        return
    why = f"status {last.http_code}" if last.http_code else (last.error or "no answer")
    failed = sum(not attempt.succeeded for attempt in attempts)
    yield Finding(
        PART,
        False,
        f"{failed} of its last {len(attempts)} deliveries failed, the last with {why}",
        _fix_delivery(last),
    )


def _fix_delivery(last: DeliveryAttempt) -> str:
    if last.http_code == 403:
        return "its secret is not our WEBHOOK_SECRET; kosmo-billing webhook register gives it ours"
    if last.http_code is None or last.http_code == 0:
        return "BTCPay does not reach that address: is the proxy up and WEBHOOK_URL right?"
    if last.http_code == 404:
        return "something else answers at that address: is WEBHOOK_URL right?"
    return "see the log of the daemon and of the proxy at that time"
