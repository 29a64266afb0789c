"""An installation of which every part can be taken away: daemons, and a proxy before each neighbour."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.support.houses import House, build_house, move_in
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import SETTINGS, create_database
from tests.support.world import World, until, world_around
from tests.walk.catalogue import Assortment

STARTS_WITHIN = 60.0  # seconds; walks share their machine with one another

# Somebody may walk for 155 days, and everything of that time is compared.
_KEPT = dict.fromkeys(("USAGE_RETENTION_DAYS", "INVOICE_RETENTION_DAYS", "DOCUMENT_RETENTION_DAYS"), "400")


@dataclass(frozen=True)
class Town:
    """Everything; what belongs to a walk is its own, so several walks run beside each other."""

    world: World
    postgres: EmbeddedPostgres
    houses: list[House]
    credit: bool
    sells: Assortment
    plans_file: Path

    def change_catalogue(self, chance: Random) -> str:
        """Sell something else from the next start of the daemons on, and say what."""
        changed = self.sells.change(chance)
        self.plans_file.write_text(self.sells.toml)
        return changed

    async def heal(self) -> None:
        """Bring back whatever is away, at once."""
        self.world.simulator.set_faults(
            down=False,
            slow_ms=0,
            error_rate=0,
            create_times_out=False,
            garbage=False,
            webhooks={"drop": 0, "duplicate": False, "reorder": False, "delay_ms": 0, "hold": False},
        )
        await self.world.simulator.come_back()
        self.postgres.thaw()
        await self.postgres.start()
        for house in self.houses:
            await house.heal()

    async def stop_daemons(self) -> None:
        for house in self.houses:
            await house.daemon.stop()

    async def start_daemons(self) -> None:
        for house in self.houses:
            await house.daemon.start(STARTS_WITHIN)

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return not [problem async for problem in self.problems()]

        await until(ready, lambda: self.world.logs, 60)

    async def problems(self) -> AsyncGenerator[str, None]:
        """Yield which daemon is not ready, and why; slow commits are the machine's, which walks share."""
        for house in self.houses:
            status, told = await self.world.ready(house.daemon)
            wrong = {name: one for name, one in told["checks"].items() if not one["ok"] and name != "commits"}
            if status != 200 or wrong:
                yield f"{house.daemon.name} is not ready: {status}, {wrong}"


@contextlib.asynccontextmanager
async def town_around(
    directory: Path, daemons: int, *, credit: bool = True, currency: str | None = None
) -> AsyncIterator[Town]:
    """A town whose daemons are ready; unless they give ``credit``, unused money is a case."""
    async with contextlib.AsyncExitStack() as stack:
        place = stack.enter_context(temporary_directory("kosmo-walk-"))
        settings = SETTINGS | {"full_page_writes": "on"}  # a kill may tear a page
        postgres = EmbeddedPostgres(place / "postgres", settings=settings, durable=False)
        await stack.enter_async_context(postgres)
        url = await create_database(postgres, "walk")
        broker = await stack.enter_async_context(Mosquitto(max_queued_messages=0))
        world = await stack.enter_async_context(world_around(directory, url, broker))
        sells, plans_file = Assortment(), place / "plans.toml"
        if currency is not None:
            sells.change_currency(Random(currency), currency)
        plans_file.write_text(sells.toml)
        world.more |= {"CREDIT": "auto" if credit else "off", "PLANS_FILE": str(plans_file), **_KEPT}
        houses = []
        for number in range(daemons):
            house = await build_house(
                world, stack, f"daemon-{number}", BTCPAY_TIMEOUT="3", INVOICE_RATE="1000"
            )
            await move_in(world, house, STARTS_WITHIN)
            houses.append(house)
        town = Town(world, postgres, houses, credit, sells, plans_file)
        await town.until_ready()
        yield town
