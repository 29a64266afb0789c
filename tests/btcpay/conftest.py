"""A simulated BTCPay and a client of it, fresh for each test."""

from collections.abc import AsyncIterator

import pytest

from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.btcpay.servers import KEY, STORE, client_of


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(store_id=STORE, api_key=KEY) as running:
        yield running


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[BtcpayClient]:
    async with client_of(simulator.url) as opened:
        yield opened
