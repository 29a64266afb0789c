"""From a webhook to the retained document on the demo's parts: `python -m tests.bench.demo`.

Embedded PostgreSQL, the broker and the BTCPay simulator as the demo has them, and the daemon; invoices are
opened over REST and paid at the simulator, whose own webhooks are off so that ours can be timed.
"""

import json
from uuid import UUID, uuid4

from kosmo_billing_daemon.contract.paths import API
from tests.bench.figures import Figure, percentile
from tests.bench.load_generator import Connection, Subscriber, in_flight, post, webhook
from tests.bench.rig import Rig, alone, daemon, services
from tests.bench.settlement import IN_FLIGHT, Course

Job = tuple[UUID, bytes]
"""A user, and the webhook that tells of the payment."""


async def paid(ours: Rig, number: int) -> list[Job]:
    """Open so many invoices of new users, and pay them."""
    jobs: list[Job] = []

    async def one(connection: Connection, user_id: UUID) -> None:
        wish = post(f"{API}/invoices", b'{"plan_type": "wanderer"}', X_User_ID=str(user_id))
        opened = json.loads(await connection.expect(wish, 201))
        jobs.append((user_id, webhook(ours.webhook_path, UUID(opened["order_id"]), opened["invoice_id"])))
        pay = post(f"/simulate/invoices/{opened['invoice_id']}", b'{"action": "pay", "method": "BTC-LN"}')
        async with Connection(ours.btcpay) as simulator:
            await simulator.expect(pay, 200)

    await in_flight(ours.api, 8, [uuid4() for _ in range(number)], one)
    return jobs


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    number = 200 if quick else 1000
    found: list[Figure] = []
    async with services("tests.bench.simulated_btcpay") as where, daemon(where) as ours:
        host, port = where.broker_address
        async with Subscriber(ours.topics, host=host, port=port) as told:
            course = Course(ours.api, ours.webhook_path, told)
            await course.in_flight_jobs(await paid(ours, 100))  # warm
            for _ in range(rounds):
                course.took.clear()
                await course.at_rate_jobs(await paid(ours, number // 4), 50)
                found += [
                    Figure(
                        what=f"demo's parts: webhook POST to retained document, p{percent}",
                        value=percentile(course.took, percent) * 1e3,
                        unit="ms",
                    )
                    for percent in (50, 99)
                ]
                seconds = await course.in_flight_jobs(await paid(ours, number))
                found.append(
                    Figure(
                        what=f"demo's parts: webhooks settled, {IN_FLIGHT} in flight",
                        value=number / seconds,
                        unit="/s",
                    )
                )
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
