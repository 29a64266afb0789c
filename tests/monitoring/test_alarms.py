"""Operators are told once when the service got worse for a minute, and once when it is well again."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.monitoring.alarms import Alarms
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.store.postgres import Database, Pool
from kosmo_billing_daemon.web.health import Readiness
from tests.contract.schemas import errors
from tests.demo.btcpay.conftest import HandClock

VITAL = {"database"}


@dataclass
class Service:
    """A service whose parts fail as a test says, watched by daemons of which one leads."""

    pool: Pool
    clock: HandClock = field(default_factory=HandClock)
    failing: set[str] = field(default_factory=set)
    leader: str = "one"
    daemons: dict[str, Alarms] = field(default_factory=dict)

    def daemon(self, name: str, pool: Pool | None = None) -> None:
        async def readiness() -> Readiness:
            checks = {
                part: Check(part not in self.failing, "as it is") for part in ("database", "btcpay", "broker")
            }
            return Readiness(not self.failing & VITAL, checks)

        began = self.clock()

        def monotonic() -> float:
            return (self.clock() - began).total_seconds()

        self.daemons[name] = Alarms(
            pool=pool or self.pool,
            clock=self.clock,
            readiness=readiness,
            leads=lambda: self.leader == name,
            changed=lambda: None,
            instance=name,
            monotonic=monotonic,
        )

    async def last(self, seconds: int) -> None:
        for _ in range(seconds // 10):
            for alarms in self.daemons.values():
                await alarms.run_once()
            self.clock.move(seconds=10)

    async def told(self) -> list[tuple[str, str, list[str]]]:
        async with self.pool.connection() as connection:
            rows = await connection.fetch("SELECT type, data::text, occurred_at FROM events ORDER BY id")
        for row in rows:
            event = cloud_event(
                event_id="1", event_type=row["type"], subject=None, time=row["occurred_at"], data=row["data"]
            )
            assert errors("ServiceEvent", json.loads(event)) == []
        told = [(row["type"], json.loads(row["data"])) for row in rows]
        return [(each, data["status"], sorted(data.get("problems", ()))) for each, data in told]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with Pool(Database(url=database_url)) as pool:
        service = Service(pool)
        service.daemon("one")
        yield service


DEGRADED = ("billing.degraded", "degraded", ["btcpay"])
RECOVERED: tuple[str, str, list[str]] = ("billing.recovered", "ready", [])


async def test_what_lasts_a_minute_is_told_once_and_so_is_its_end(service: Service) -> None:
    await service.last(70)
    service.failing = {"btcpay"}
    await service.last(50)
    service.failing = set()
    await service.last(120)
    assert await service.told() == [], "less than a minute is told to nobody"
    service.failing = {"btcpay"}
    await service.last(300)
    assert await service.told() == [DEGRADED]
    service.failing = set()
    await service.last(50)
    service.failing = {"btcpay"}
    await service.last(50)
    assert await service.told() == [DEGRADED], "not well for a minute"
    service.failing = {"btcpay", "database"}
    await service.last(120)
    assert (await service.told())[1:] == [("billing.degraded", "unready", ["btcpay", "database"])]
    service.failing = set()
    await service.last(180)
    assert (await service.told())[2:] == [RECOVERED]


async def test_a_new_leader_neither_repeats_nor_forgets(service: Service) -> None:
    service.daemon("two")
    service.failing = {"btcpay"}
    await service.last(120)
    service.leader = "two"
    service.daemon("two")  # it was started anew, and remembers nothing
    await service.last(120)
    assert await service.told() == [DEGRADED]
    service.failing = set()
    await service.last(120)
    assert await service.told() == [DEGRADED, RECOVERED]


async def test_an_outage_of_the_database_is_told_when_it_is_over(service: Service) -> None:
    class Away(Pool):
        def transaction(self, first: str = "") -> Any:  # noqa: ARG002  overrides
            raise Unavailable("the database is away")

    service.daemon("one", Away(Database(url="postgresql://127.0.0.1:9/none")))
    service.failing = {"database"}
    for _ in range(12):
        with pytest.raises(Unavailable):
            await service.last(10)
        service.clock.move(seconds=10)
    watched = service.daemons["one"]
    watched._pool = service.pool  # it is back
    service.failing = set()
    await service.last(20)
    assert await service.told() == [("billing.degraded", "unready", ["database"])]
    await service.last(120)
    assert (await service.told())[1:] == [RECOVERED]
