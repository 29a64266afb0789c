"""Damaged webhooks and usage reports against a running daemon: it answers, keeps up, and goes on selling."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from kosmo_billing_daemon.btcpay.signature import HEADER, sign
from kosmo_billing_daemon.link import Broker, connect
from tests.fuzz.mutations import mutated
from tests.support.daemon import STORE, WEBHOOK_SECRET, DaemonProcess
from tests.support.intake import report_all
from tests.support.observer import TOPICS
from tests.support.usage import event, messages, payload
from tests.support.world import World, until
from tests.web.test_webhooks import event as hook

SEED = 7
NUMBER = 500  # of webhooks, and of reports
AT_ONCE = 16
GATEWAY = "gateway-1"


async def post(world: World, daemon: DaemonProcess, bodies: Sequence[bytes]) -> list[int]:
    """Post signed bodies, every tenth with a damaged signature; returns the statuses in their order."""
    random, room = Random(SEED), asyncio.Semaphore(AT_ONCE)

    async def one(number: int, body: bytes) -> int:
        signature = sign(body, WEBHOOK_SECRET.encode())
        if number % 10 == 0:
            signature = signature[: random.randrange(len(signature))]
        async with (
            room,
            world.http.post(daemon.webhook_url, data=body, headers={HEADER: signature}) as answer,
        ):
            await answer.read()
            return answer.status

    return list(await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies))))


async def report(world: World, payloads: Sequence[bytes]) -> None:
    """Publish reports; returns when the broker has them all."""
    at = Broker(host=world.broker.host, port=world.broker.port, client_id="damaged", clean=True)
    async with connect(at) as link:
        for start in range(0, len(payloads), AT_ONCE):
            batch = payloads[start : start + AT_ONCE]
            await asyncio.gather(*(link.publish(TOPICS.usage(GATEWAY), one) for one in batch))


def damaged(seeds: Sequence[Mapping[str, object]], random: Random) -> list[bytes]:
    return [mutated(json.dumps(random.choice(seeds)).encode(), random, times=2) for _ in range(NUMBER)]


async def test_damaged_webhooks_and_reports_stop_nothing(world: World) -> None:
    daemon = await world.daemon()
    random = Random(SEED)
    known = UUID(int=random.getrandbits(128), version=4)
    invoice_id = await world.order(daemon, known)
    hooks = [hook(invoiceId=invoice_id, storeId=STORE, deliveryId=f"damaged-{n}") for n in range(30)]
    now = datetime.now(UTC)
    reports: list[dict[str, object]] = [
        {"report_id": f"r{n}", "events": [event(known, f"m{n}", now)]} for n in range(30)
    ]
    statuses, _ = await asyncio.gather(
        post(world, daemon, damaged(hooks, random)), report(world, damaged(reports, random))
    )
    assert statuses == [403 if number % 10 == 0 else 200 for number in range(NUMBER)]
    assert world.observer.documents.get(known, {}).get("status") != "active"  # no hint is a payment

    # A good purchase and a good report, behind all of it.
    customer = await world.buy(daemon)
    await world.until_published(customer)
    sent_at = datetime.now(UTC)
    good = {"good": payload(messages(customer, 0, 3, sent_at), "good")}
    async with asyncio.timeout(20):
        acks = await report_all(world.broker.port, GATEWAY, good)  # of damaged ones too, and of a repeat
    ack, *_ = [ack for ack in acks if ack.report_id == "good"]
    assert (ack.accepted, ack.duplicates, ack.rejected) == (3, 0, ())
    await world.until_published(customer, messages_used=3)

    async def drained() -> bool:
        return not await world.value("SELECT count(*) FROM lookups WHERE hinted_at IS NOT NULL")

    await until(drained, "every delivery handled")
    # The damage was of every kind: some of it could be read, some not.
    assert await world.value("SELECT count(*) FROM usage_quarantine") > 0
    assert await world.value("SELECT count(*) FROM usage_events WHERE user_id = $1", known) > 0
    assert await world.value("SELECT count(DISTINCT type) FROM webhook_deliveries") > 2
    await world.pay(invoice_id)  # the invoice so many hints were about is none the worse for it
    await world.until_published(known)
    await world.until_ready(daemon)
    assert await daemon.stop() == 0
