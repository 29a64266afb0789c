"""The demo's BTCPay as a process of its own: `python -m tests.bench.simulated_btcpay`. Prints its port."""

import asyncio
import sys
from urllib.parse import urlsplit

import uvloop

from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.bench.fake_btcpay import KEY, STORE


async def serve() -> None:
    async with Simulator(store_id=STORE, api_key=KEY) as simulator:
        print(urlsplit(simulator.url).port, flush=True)
        sys.stdout.close()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
