"""What a daemon tells of a fault from outside: its health, its metrics, its log."""

from typing import Any

from tests.support.daemon import DaemonProcess
from tests.support.world import World, until


async def says(
    world: World, daemon: DaemonProcess, status: str | tuple[str, ...], part: str, words: str = ""
) -> float:
    """Wait until readiness has this status, or one of these, and blames this part in these words."""
    wanted = (status,) if isinstance(status, str) else status
    seen: dict[str, Any] = {}

    async def fact() -> bool:
        _, body = await world.ready(daemon)
        seen.update(body)
        check = body["checks"].get(part, {"ok": True, "detail": ""})
        return body["status"] in wanted and not check["ok"] and words in check["detail"]

    return await until(fact, lambda: f"{status} because of {part} ({words}): {seen}\n{daemon.log}")


async def metrics(world: World, daemon: DaemonProcess) -> dict[str, float]:
    """Name with labels to value, as Prometheus would scrape them; our prefix is left out."""
    async with world.http.get(f"{daemon.url}/metrics") as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("kosmo_billing_"): float(value) for name, value in pairs}


async def measures(world: World, daemon: DaemonProcess, name: str, value: float) -> None:
    """Wait until a metric has this value."""
    seen: dict[str, float] = {}

    async def fact() -> bool:
        seen.update(await metrics(world, daemon))
        return seen.get(name) == value

    await until(fact, lambda: f"{name} is {seen.get(name)}, not {value}")


async def logs(daemon: DaemonProcess, words: str) -> None:
    """Wait until the log has these words."""
    await until(lambda: words in daemon.log, lambda: f"{words!r} in the log:\n{daemon.log}")
