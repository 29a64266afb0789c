"""A shop that cannot sell looks ill from outside, in the words of whoever keeps it from selling.

Seen failing: without a wallet, or with creations blocked by a proxy, every purchase was 503 while the daemon
was "ready" with ``btcpay_up 1`` and no error counted.
"""

import time
from uuid import uuid4

from kosmo_billing_daemon.contract.paths import API
from tests.faults.signs import measures, metrics, says
from tests.support.world import World


async def test_a_shop_that_cannot_sell_is_degraded_until_it_sells(world: World) -> None:
    daemon = await world.daemon()
    user = uuid4()

    async def purchase() -> int:
        url, headers = f"{daemon.url}{API}/invoices", {"X-User-ID": str(user)}
        async with world.http.post(url, json={"plan_type": "wanderer"}, headers=headers) as response:
            return response.status

    world.simulator.set_faults(no_wallet=True)
    began = time.monotonic()
    assert [await purchase() for _ in range(3)] == [503] * 3
    assert time.monotonic() - began < 5, "no repeat waits for another daemon"
    await says(world, daemon, "degraded", "btcpay", "No wallet has been linked to your BTCPay Store")
    await measures(world, daemon, "btcpay_refuses", 1)
    measured = await metrics(world, daemon)
    assert (measured["btcpay_up"], measured["btcpay_errors_total"]) == (1, 3)
    assert daemon.log.count("BTCPay refused a call") == 1, daemon.log

    world.simulator.set_faults(no_wallet=False, proxy_status=405, proxy_blocks_creations=True)
    assert await purchase() == 503
    await says(
        world, daemon, "degraded", "btcpay", "something in front of BTCPay answered 405 with text/html"
    )
    await measures(world, daemon, "btcpay_up", 0)
    await measures(world, daemon, "btcpay_refuses", 0)
    world.simulator.set_faults(proxy_status=0)
    assert await purchase() in (200, 201)
    await world.until_ready(daemon)
    await measures(world, daemon, "btcpay_up", 1)
    assert len(world.simulator.invoices) == 1
