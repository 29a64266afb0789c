"""The client against a BTCPay that fails, and against what stands in its place."""

import asyncio
import logging
from collections.abc import Awaitable
from uuid import uuid4

import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import (
    BtcpayAway,
    BtcpayDenied,
    BtcpayRefused,
    CreationUnknown,
    Garbled,
)
from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN
from tests.btcpay.servers import KEY, client_of, serving
from tests.support.world import until

PLAN = BUILT_IN.plans[0]
HURRIED = Timeouts(connect=0.5, call=0.3, create=0.3)
INFO = {"version": "2.4.1", "fullySynched": True}


async def test_a_server_that_is_not_there_has_created_nothing(
    client: BtcpayClient, simulator: Simulator
) -> None:
    await simulator.go_away()
    with pytest.raises(BtcpayAway) as caught:
        await client.create_invoice(uuid4(), PLAN)
    assert not isinstance(caught.value, CreationUnknown)
    assert not caught.value.reached
    with pytest.raises(BtcpayAway):
        await client.find_invoices([uuid4()])
    assert not client.state.reachable


async def test_a_cut_connection_leaves_a_creation_unknown(client: BtcpayClient, simulator: Simulator) -> None:
    simulator.set_faults(down=True)
    with pytest.raises(CreationUnknown):
        await client.create_invoice(uuid4(), PLAN)
    with pytest.raises(BtcpayAway) as caught:
        await client.server_info()
    assert not isinstance(caught.value, CreationUnknown)
    simulator.set_faults(down=False)
    await client.server_info()
    assert client.state.reachable


async def test_a_creation_without_an_answer_is_found_by_its_order(simulator: Simulator) -> None:
    simulator.set_faults(create_times_out=True)
    async with client_of(simulator.url, timeouts=HURRIED) as client:
        with pytest.raises(CreationUnknown):
            await client.create_invoice(order_id := uuid4(), PLAN)
        (found,) = await client.find_invoices([order_id])
    assert found.order_id == str(order_id)
    assert len(simulator.invoices) == 1, "a creation is never repeated by itself"


async def test_a_slow_server_is_given_up_at_the_deadline(simulator: Simulator) -> None:
    simulator.set_faults(slow_ms=20_000)
    async with client_of(simulator.url, timeouts=HURRIED) as client:
        started = asyncio.get_running_loop().time()
        with pytest.raises(BtcpayAway, match=r"within 0\.3 s"):
            await client.fetch_invoice("x")
        with pytest.raises(CreationUnknown):
            await client.create_invoice(uuid4(), PLAN)
        assert asyncio.get_running_loop().time() - started < 2


async def test_garbage_with_200_is_away_and_leaves_a_creation_unknown(
    client: BtcpayClient, simulator: Simulator
) -> None:
    simulator.set_faults(garbage=True)
    with pytest.raises(Garbled, match="text/html"):
        await client.find_invoices([uuid4()])
    with pytest.raises(CreationUnknown):
        await client.create_invoice(uuid4(), PLAN)
    assert not client.state.reachable


async def test_an_unaccepted_key_has_created_nothing(client: BtcpayClient, simulator: Simulator) -> None:
    simulator.set_faults(unauthorized=True)
    for call in (client.create_invoice(uuid4(), PLAN), client.fetch_invoice("x"), client.current_key()):
        with pytest.raises(BtcpayDenied) as caught:
            await call
        assert caught.value.unauthenticated
    assert simulator.invoices == {}


async def test_an_error_of_the_server_leaves_a_creation_unknown(
    client: BtcpayClient, simulator: Simulator
) -> None:
    simulator.set_faults(error_rate=1.0)
    with pytest.raises(CreationUnknown):
        await client.create_invoice(uuid4(), PLAN)
    with pytest.raises(BtcpayAway, match="500"):
        await client.fetch_store()


async def test_proxies_of_the_environment_are_not_used(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with client_of(simulator.url) as client:
        await client.server_info()


async def test_the_key_is_nowhere_but_in_the_header(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: web.Request) -> web.Response:
        said = f"{request.headers['Authorization']} is bad"
        return web.json_response([{"path": said, "message": said}], status=422)

    errors: list[BaseException | None] = []

    async def collect(call: Awaitable[object]) -> None:
        with pytest.raises((BtcpayAway, BtcpayDenied, BtcpayRefused)) as caught:
            await call
        error: BaseException | None = caught.value
        while error is not None:
            errors.append(error)
            error = error.__cause__ or error.__context__

    async with client_of(simulator.url) as client:
        assert KEY not in repr(client)
        await client.current_key()
        await client.create_invoice(uuid4(), PLAN)
        for fault in (
            {"down": True},
            {"down": False, "garbage": True},
            {"garbage": False, "unauthorized": True},
        ):
            simulator.set_faults(**fault)
            await collect(client.current_key())
            await collect(client.create_invoice(uuid4(), PLAN))
        await simulator.go_away()
        await collect(client.current_key())
        assert KEY not in repr(client.state)
    async with serving(echo) as url, client_of(url) as client:
        await collect(client.create_invoice(uuid4(), PLAN))
    assert all(KEY not in f"{error} {error!r} {vars(error)}" for error in errors)
    assert "*** is bad" in str(errors[-1])
    assert caplog.records
    for record in caplog.records:
        assert KEY not in f"{record.getMessage()} {vars(record)}"


async def test_an_outage_is_one_warning_and_one_line_when_it_is_over(
    client: BtcpayClient, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kosmo_billing_daemon")
    assert client.state.reachable
    assert client.state.last_error is None
    before = client.state.since
    await simulator.go_away()
    for _ in range(5):
        with pytest.raises(BtcpayAway):
            await client.create_invoice(uuid4(), PLAN)
    away = client.state
    assert not away.reachable
    assert away.since > before
    assert away.last_error is not None
    await simulator.come_back()
    for _ in range(3):
        await client.server_info()
    assert client.state.reachable
    assert client.state.since > away.since
    ours = [
        (r.levelname, r.getMessage())
        for r in caplog.records
        if r.name.startswith("kosmo_billing_daemon.btcpay")
    ]
    assert ours == [("WARNING", "BTCPay is away"), ("INFO", "BTCPay is back")]


async def test_a_return_is_noticed_although_nobody_calls(simulator: Simulator) -> None:
    """A daemon that stands by calls for purchases alone; its state must not stay what the last one met."""
    timeouts = Timeouts(connect=1.0, call=2.0, create=2.0, again=0.05)
    async with BtcpayClient(
        url=simulator.url, api_key=simulator.api_key, store_id=simulator.store_id, timeouts=timeouts
    ) as client:
        await simulator.go_away()
        with pytest.raises(BtcpayAway):
            await client.find_invoices([uuid4()])
        failures = client.state.failures
        await until(lambda: client.state.failures > failures, "it is asked again", 5.0)
        assert not client.state.reachable
        await simulator.come_back()
        await until(lambda: client.state.reachable, "its return", 5.0)


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await client_of("http://127.0.0.1:9").server_info()


async def test_a_closed_client_is_an_outage_to_what_goes_on(simulator: Simulator) -> None:
    """A purchase whose buyer left is waited for only so long when the daemon stops."""
    async with client_of(simulator.url) as client:
        pass
    with pytest.raises(BtcpayAway, match="closed") as caught:
        await client.create_invoice(uuid4(), PLAN)
    assert not caught.value.reached


async def test_cancelled_calls_leave_the_client_usable() -> None:
    arrived, free = asyncio.Semaphore(0), asyncio.Event()

    async def hold(_: web.Request) -> web.Response:
        arrived.release()
        await free.wait()
        return web.json_response([])

    async with serving(hold) as url, client_of(url) as client:
        orders = [uuid4() for _ in range(400)]
        calls = [asyncio.create_task(client.find_invoices(orders)) for _ in range(20)]
        async with asyncio.timeout(2):
            for _ in range(32):  # as many as the client has connections; the rest waits for one
                await arrived.acquire()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        free.set()
        assert await client.find_invoices(orders) == []
        assert client.state.reachable
