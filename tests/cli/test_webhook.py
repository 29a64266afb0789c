"""The webhook is made and fixed over BTCPay's API, and its secret is shown once or never."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.cli.conftest import Cli, Make
from tests.support.daemon import KEY, STORE, WEBHOOK_SECRET

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own

URL = "https://api.example.org/api/v1/billing/webhooks/btcpay"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(store_id=STORE, api_key=KEY) as running:
        yield running


@pytest.fixture
def signed(make_cli: Make, simulator: Simulator) -> Cli:
    """The command line of an installation that has its secret."""
    return make_cli(BTCPAY_URL=simulator.url, WEBHOOK_URL=URL)


@pytest.fixture
def unsigned(make_cli: Make, simulator: Simulator) -> Cli:
    """The command line of an installation without a secret."""
    return make_cli(BTCPAY_URL=simulator.url, WEBHOOK_URL=URL, WEBHOOK_SECRET="")


def secret_of(simulator: Simulator, webhook_id: str) -> str:
    return simulator._engine.webhooks.registered[webhook_id].secret


async def test_new_webhook_gets_the_secret_we_expect(signed: Cli, simulator: Simulator) -> None:
    assert (await signed("webhook", "list", "--json")).json == []
    made = (await signed("webhook", "register", "--json")).json
    assert (made["url"], made["created"], "secret" in made) == (URL, True, False)
    assert secret_of(simulator, made["id"]) == WEBHOOK_SECRET
    again = (await signed("webhook", "register", "--json")).json
    assert (again["id"], again["created"], again["fixed"]) == (made["id"], False, [])
    (listed,) = (await signed("webhook", "list", "--json")).json
    assert (listed["ours"], listed["defects"]) == (True, [])


async def test_webhook_of_ours_is_fixed_and_another_left_alone(signed: Cli, simulator: Simulator) -> None:
    other = simulator.add_webhook("https://shop.example.org/hook", "theirs", enabled=False)
    broken = simulator.add_webhook(URL, "old", enabled=False, events=["InvoiceCreated"])
    shown = (await signed("webhook", "list")).out
    assert "it is switched off" in shown
    registered = (await signed("webhook", "register", "--json")).json
    assert (registered["id"], registered["enabled"], registered["defects"]) == (broken, True, [])
    assert len(registered["fixed"]) == 2
    assert "InvoiceSettled" in registered["events"]
    assert secret_of(simulator, broken) == WEBHOOK_SECRET
    assert secret_of(simulator, other) == "theirs"
    listed = {hook["id"]: hook for hook in (await signed("webhook", "list", "--json")).json}
    assert (listed[other]["ours"], listed[other]["enabled"]) == (False, False)


async def test_new_secret_is_printed_once(unsigned: Cli, simulator: Simulator) -> None:
    made = await unsigned("webhook", "register")
    (webhook_id,) = simulator._engine.webhooks.registered
    secret = secret_of(simulator, webhook_id)
    assert f"WEBHOOK_SECRET={secret}\n" in made.out
    assert len(secret) > 30
    again = await unsigned("webhook", "register")
    assert secret not in again.out
    assert "keeps its secret" in again.out
    assert secret_of(simulator, webhook_id) == secret


async def test_new_secret_goes_to_a_file_only_its_owner_reads(
    unsigned: Cli, simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "WEBHOOK_SECRET"
    made = await unsigned("webhook", "register", "--secret-file", str(file))
    (webhook_id,) = simulator._engine.webhooks.registered
    secret = secret_of(simulator, webhook_id)
    assert file.read_text() == f"{secret}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in made.out
    taken = await unsigned("webhook", "register", "--new-secret", "--secret-file", str(file))
    assert taken.code == 1
    assert secret_of(simulator, webhook_id) == secret


async def test_secret_file_is_removed_when_btcpay_refuses(unsigned: Cli, tmp_path: Path) -> None:
    file = tmp_path / "WEBHOOK_SECRET"
    result = await unsigned("webhook", "register", "--secret-file", str(file), BTCPAY_API_KEY="f" * 40)
    assert result.code == 69
    assert not file.exists()


async def test_address_is_asked_for_where_none_is_set(signed: Cli) -> None:
    result = await signed("webhook", "register", WEBHOOK_URL="")
    assert result.code == 1
    assert "WEBHOOK_URL" in result.err
