"""The gate for plain threads."""

import asyncio
import inspect
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.gate import Gate, Reason, StateInUse, SyncGate
from kosmo_billing_daemon.gate.gate import GateOptions
from tests.gate.stand_in import NODE, at, daemon, document
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


async def in_thread(work: Any, *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


def test_it_takes_every_option_of_a_gate() -> None:
    assert list(inspect.signature(Gate).parameters) == ["broker", "state", *GateOptions.__annotations__]


async def test_threads_check_and_record(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    failures: list[BaseException] = []

    def gateway() -> None:
        with SyncGate(at(mosquitto), state, reporter="gateway-1") as edge:
            edge.ready(10)
            assert edge.status.complete

            def messages() -> None:
                try:
                    for _ in range(100):
                        assert edge.check(user, NODE)
                        edge.record(user, NODE)
                except BaseException as error:
                    failures.append(error)
                    raise

            threads = [threading.Thread(target=messages) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            edge.durable()
            assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
            done.wait(10)

    done = threading.Event()
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user, messages_limit=400)])
        running = asyncio.create_task(in_thread(gateway))
        await eventually(lambda: one.ledger.used(user) == 400 or running.done(), "the count")
        done.set()
        await running
    assert failures == []
    assert not any(thread.name.startswith("gate") for thread in threading.enumerate())


async def test_a_gate_that_cannot_open_says_why(mosquitto: Mosquitto, state: Path) -> None:
    def twice() -> None:
        with SyncGate(at(mosquitto), state), SyncGate(at(mosquitto, "other"), state):
            pass

    with pytest.raises(StateInUse):
        await in_thread(twice)
    assert not any(thread.name.startswith("gate") for thread in threading.enumerate())


async def test_a_closed_gate_answers_no_more_questions(mosquitto: Mosquitto, state: Path) -> None:
    def closed() -> None:
        with SyncGate(at(mosquitto), state, reporter="gateway-1") as edge:
            pass
        edge.record(uuid4(), NODE)

    with pytest.raises(RuntimeError, match="not open"):
        await in_thread(closed)
