"""What ``check`` finds at BTCPay and what ``webhook register`` makes of it, on a simulated BTCPay.

Seen failing: another spelling of our address became a second webhook, a key that views the store was told it
may not see payments, and a store that could not sell was well.
"""

from collections.abc import AsyncIterator

import pytest

from kosmo_billing_daemon.admin.checks.btcpay import inspect
from kosmo_billing_daemon.admin.checks.webhooks import defects, ours, register
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.contract.paths import WEBHOOK
from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.services.conftest import KEY, STORE, TIMEOUTS

URL = f"https://api.example.org{WEBHOOK}"
PREFIX = "btcpay.store."


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[BtcpayClient]:
    async with BtcpayClient(url=simulator.url, api_key=KEY, store_id=STORE, timeouts=TIMEOUTS) as opened:
        yield opened


async def found(client: BtcpayClient) -> dict[str, bool | None]:
    return {finding.fact: finding.ok async for finding in inspect(client, URL, signed=True)}


@pytest.mark.parametrize(
    ("spelling", "arrives"),
    [
        (URL, True),
        (f"https://api.example.org:443{WEBHOOK}", True),
        (f"https://API.Example.Org{WEBHOOK}", True),
        (f"https://api.example.org.{WEBHOOK}", True),
        (f"https://user:word@api.example.org{WEBHOOK}", True),
        (f"https://api.example.org{WEBHOOK}/", False),
        (f"http://api.example.org{WEBHOOK}", False),
        (f"http://API.example.org:80{WEBHOOK}/", False),
    ],
)
async def test_another_spelling_of_our_address_is_our_webhook(
    client: BtcpayClient, simulator: Simulator, spelling: str, arrives: bool
) -> None:
    """One that delivers is left as it is, the others get our spelling; none becomes a second webhook."""
    hook = simulator.add_webhook(spelling, "theirs")
    done = await register(client, URL, secret="ours", fresh=None)
    assert (done.webhook.id, done.is_new, done.surplus) == (hook, False, ())
    assert done.webhook.url == (spelling if arrives else URL)
    assert bool(done.fixed) is not arrives
    listed = await client.list_webhooks()
    assert [one.id for one in ours(listed, URL)] == [one.id for one in listed] == [hook]
    assert defects(listed[0], URL) == ()


async def test_another_address_is_anothers_and_equal_ones_are_surplus(
    client: BtcpayClient, simulator: Simulator
) -> None:
    for other in (
        f"https://api.example.org:8443{WEBHOOK}",
        f"https://api.example.com{WEBHOOK}",
        f"https://api.example.org{WEBHOOK}?shop=2",
        f"https://api.example.org/v2{WEBHOOK}",
        f"http://api.example.org:8004{WEBHOOK}",
        f"https://api.example.org{WEBHOOK.upper()}",
    ):
        simulator.add_webhook(other)
    made = await register(client, URL, secret="ours", fresh=None)
    assert made.is_new
    second = simulator.add_webhook(f"{URL}/", enabled=False)
    again = await register(client, URL, secret="ours", fresh=None)
    assert (again.webhook.id, again.surplus) == (made.webhook.id, (second,))
    international = "https://bücher.example/hook"
    simulator.add_webhook("https://xn--bcher-kva.example/hook")
    assert len(ours(await client.list_webhooks(), international)) == 1


@pytest.mark.parametrize(
    ("granted", "lacking"),
    [
        (("unrestricted",), set()),
        ((f"{PREFIX}canmodifystoresettings:{STORE}",), set()),
        (
            (f"{PREFIX}cancreateinvoice", f"{PREFIX}canviewstoresettings:{STORE}"),
            {f"{PREFIX}webhooks.canmodifywebhooks"},
        ),
        (
            (f"{PREFIX}canmodifyinvoices", f"{PREFIX}webhooks.canmodifywebhooks"),
            {f"{PREFIX}canviewstoresettings"},
        ),
        (
            (f"{PREFIX}canviewstoresettings",),
            {f"{PREFIX}cancreateinvoice", f"{PREFIX}webhooks.canmodifywebhooks"},
        ),
        (
            (f"{PREFIX}canmodifystoresettings:", f"{PREFIX}canviewinvoices:Another"),
            {f"{PREFIX}{name}" for name in ("cancreateinvoice", "canviewinvoices", "canviewstoresettings")}
            | {f"{PREFIX}webhooks.canmodifywebhooks"},
        ),
        (
            ("btcpay.server.canmodifyserversettings", f"{PREFIX}canviewinvoices"),
            {f"{PREFIX}{name}" for name in ("cancreateinvoice", "canviewstoresettings")}
            | {f"{PREFIX}webhooks.canmodifywebhooks"},
        ),
    ],
)
async def test_the_rights_told_are_the_rights_there_are(
    client: BtcpayClient, simulator: Simulator, granted: tuple[str, ...], lacking: set[str]
) -> None:
    simulator.add_key(KEY, granted)
    told = await found(client)
    denied = {
        fact.rpartition("(")[2].rstrip(")")
        for fact, ok in told.items()
        if ok is False and fact.startswith("the key may not")
    }
    assert denied == lacking
    assert told.get("its invoices can be read") is (None if f"{PREFIX}canviewinvoices" in lacking else True)


async def test_a_store_that_cannot_sell_is_told_and_nothing_is_created(
    client: BtcpayClient, simulator: Simulator
) -> None:
    simulator.add_webhook(URL)
    well = await found(client)
    assert False not in well.values(), well
    assert well["the store takes BTC-CHAIN, BTC-LN"]
    simulator.set_faults(no_wallet=True)
    wrong = [fact for fact, ok in (await found(client)).items() if ok is False]
    assert wrong == ["the store has no payment method: nobody can buy"]
    simulator.set_faults(no_wallet=False, proxy_status=405, proxy_blocks_creations=True)
    (wrong_now,) = [fact for fact, ok in (await found(client)).items() if ok is False]
    assert wrong_now.startswith("creating an invoice: something in front of BTCPay answered 405")
    simulator.set_faults(proxy_status=403, proxy_blocks_creations=False)
    (wrong_now,) = [fact for fact, ok in (await found(client)).items() if ok is False]
    assert "something in front of BTCPay answered 403" in wrong_now
    assert simulator.invoices == {}
