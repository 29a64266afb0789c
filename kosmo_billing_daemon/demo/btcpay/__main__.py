"""The simulator as a process of its own: ``python -m kosmo_billing_daemon.demo.btcpay``.

The rule it keeps: one JSON line with the URL as soon as the server answers, and nothing else on standard
output.
"""

import argparse
import asyncio
import json
import signal
import sys

from kosmo_billing_daemon.demo.btcpay.simulator import Simulator
from kosmo_billing_daemon.demo.btcpay.webhooks import BTCPAY_RETRY_WAITS


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m kosmo_billing_daemon.demo.btcpay", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--store-id", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument(
        "--webhook", action="append", default=[], metavar="URL", help="may be given repeatedly"
    )
    parser.add_argument("--secret", default="", help="signs the deliveries of every --webhook")
    parser.add_argument(
        "--retry-waits", type=float, nargs="*", metavar="SECONDS", help="in place of BTCPay's"
    )
    parser.add_argument("--version", default="2.4.1", help="the version of BTCPay Server to behave like")
    parser.add_argument("--seed", type=int, default=0, help="for faults left to chance")
    asyncio.run(_run(parser.parse_args()))


async def _run(arguments: argparse.Namespace) -> None:
    simulator = Simulator(
        store_id=arguments.store_id,
        api_key=arguments.api_key,
        version=arguments.version,
        seed=arguments.seed,
        retry_waits=BTCPAY_RETRY_WAITS if arguments.retry_waits is None else arguments.retry_waits,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for url in arguments.webhook:
        simulator.add_webhook(url, arguments.secret)
    await simulator.start(arguments.host, arguments.port)
    try:
        sys.stdout.write(json.dumps({"url": simulator.url}) + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await simulator.close()


if __name__ == "__main__":
    main()
