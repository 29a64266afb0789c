"""The demo's race: strict gateways sell exactly what was left, others what both believed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import pytest

from kosmo_billing_daemon.demo.gateway import Gateway
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.intake import intake
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually
from tests.support.usage import granted, subscribe, used

NODE = "!a1b2c3d4"


@pytest.mark.parametrize(("strict", "oversold"), [(True, 0), (False, 20)])
async def test_with_one_cut_off_it_says_how_many_were_oversold(
    database_url: str, tmp_path: Path, strict: bool, oversold: int
) -> None:
    now = datetime.now(UTC)
    row = granted(
        uuid4(),
        messages_limit=20,
        valid_from=now - timedelta(days=1),
        valid_until=now + timedelta(days=29),
    )
    async with (
        Mosquitto() as broker,
        Pool(Database(url=database_url)) as pool,
        pool.connection() as connection,
        intake(database_url, broker.port),
        Gateway(
            Broker(host=broker.host, port=broker.port, client_id="gateway"), tmp_path / "g.db"
        ) as gateway,
        aiohttp.ClientSession() as http,
    ):
        await subscribe(connection, row)
        await eventually(lambda: bool(gateway.gate.check(row.user_id, NODE)), "the document")

        async def race(user_id: UUID) -> tuple[int, dict[str, object]]:
            body = {"user_id": str(user_id), "node_id": NODE, "strict": strict, "cut_off": True}
            async with http.post(f"{gateway.url}/race", json=body) as response:
                return response.status, await response.json(content_type=None)

        status, result = await race(row.user_id)
        assert (status, result["left"], result["oversold"]) == (200, 20, oversold)
        assert await used(connection, row) == 20 + oversold
        assert (await race(uuid4()))[0] == 409
