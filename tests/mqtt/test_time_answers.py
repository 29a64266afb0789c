"""What time it is, from the daemon's half: to each who asks under its own name, at once or never."""

import asyncio
from datetime import UTC, datetime

from kosmo_billing_daemon.contract.payloads import TimeAnswer, TimeRequest
from kosmo_billing_daemon.link import Link, connect
from kosmo_billing_daemon.mqtt.time_answers import PER_NAME
from tests.link.brokers import at
from tests.support.intake import CLIENT_ID, TOPICS, intake
from tests.support.mosquitto import Mosquitto

NOW = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)


async def ask(link: Link, name: str, payload: bytes) -> None:
    await link.publish(TOPICS.time_request(name), payload)


async def answers_until(link: Link, name: str, nonce: str) -> list[TimeAnswer]:
    """What arrives up to the answer with this nonce, which is the last."""
    answers: list[TimeAnswer] = []
    async with asyncio.timeout(10):
        while not answers or answers[-1].nonce != nonce:
            for message in await link.receive():
                assert message.topic == TOPICS.time_answer(name)
                assert not message.retain
                answers.append(TimeAnswer.decode(message.payload))
    return answers


async def test_each_who_asks_is_told_the_time_a_few_times_a_minute(database_url: str) -> None:
    async with (
        Mosquitto() as mosquitto,
        connect(at(mosquitto, "a")) as first,
        connect(at(mosquitto, "b")) as second,
    ):
        await first.subscribe([TOPICS.time_answer("a")])
        await second.subscribe([TOPICS.time_answer("b")])
        async with intake(database_url, mosquitto.port, clock=lambda: NOW):
            await ask(second, "b", TimeRequest("before").encode())
            assert await answers_until(second, "b", "before") == [TimeAnswer("before", NOW)]
            for payload in (b"", b"\xff", b"[]", b'{"nonce":3}', b'{"nonce":""}'):
                await ask(first, "a", payload)
            await ask(second, "x" * 200, TimeRequest("nobody's").encode())
            for number in range(200):
                await ask(first, "a", TimeRequest(str(number)).encode())
            await ask(second, "b", TimeRequest("after").encode())
            assert await answers_until(second, "b", "after") == [TimeAnswer("after", NOW)]
            answered = await answers_until(first, "a", str(PER_NAME - 6))  # the malformed ones counted too
        # What is asked while no daemon is there is not kept for the next.
        await ask(second, "b", TimeRequest("lost").encode())
        async with intake(database_url, mosquitto.port, clock=lambda: NOW):
            await ask(second, "b", TimeRequest("back").encode())
            assert await answers_until(second, "b", "back") == [TimeAnswer("back", NOW)]
    assert answered == [TimeAnswer(str(number), NOW) for number in range(PER_NAME - 5)]


async def test_a_daemon_without_the_rights_to_answer_does_the_rest(database_url: str) -> None:
    acl = f"user {CLIENT_ID}\ntopic readwrite #\ntopic deny {TOPICS.prefix}/time-answers/#\n"
    acl += "user a\ntopic readwrite #"
    async with (
        Mosquitto(acl=acl, users={CLIENT_ID: "secret", "a": "secret"}) as mosquitto,
        intake(database_url, mosquitto.port, username=CLIENT_ID, password="secret") as half,
        connect(at(mosquitto, "a", username="a", password="secret")) as link,
    ):
        await link.subscribe([TOPICS.usage_ack("a")])
        await ask(link, "a", TimeRequest("1").encode())
        await link.publish(TOPICS.usage("a"), b'{"report_id":"r","events":[{"message_id":"m"}]}')
        async with asyncio.timeout(10):
            await link.receive()  # the usage-ack
        assert half.conversation.losses == 0
