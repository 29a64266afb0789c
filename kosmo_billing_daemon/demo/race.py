"""Two gateways race for the last messages of a user, one of them perhaps cut off from the broker.

Shows what strict gates are for: not strict, the one that is cut off sends what the other sends too.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from kosmo_billing_daemon.errors import Conflict, Unavailable
from kosmo_billing_daemon.gate import Decision, Gate, Reason
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.records import record

RACERS = ("race-1", "race-2")
EVERY = 0.01  # seconds between messages of one gateway
MOST = 1000  # messages to race for: five seconds
PATIENCE = 10.0  # seconds for documents, leases and reports
OUT_OF_LEASES = 1.0  # seconds without a lease until a gateway gives up


@record(kw_only=True)
class RaceResult:
    """``passed`` is what each gateway sent of the ``left`` that the user had."""

    left: int
    passed: tuple[int, ...]
    oversold: int


class Race:
    """One race at a time; the gateways keep their files between them."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._broker = broker
        self._directory = directory
        self._turn = asyncio.Lock()

    async def run(
        self, user_id: UUID, node_id: str, left: Decision, *, strict: bool, cut_off: bool
    ) -> RaceResult:
        """Let both send until nothing passes of what is left, as the demo's gateway knows.

        Raises ``Conflict`` when there is nothing to race for.
        """
        if not left or left.remaining is None or left.remaining > MOST:
            raise Conflict("the user's plan has no last messages to race for", code="no_race")
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._prepare(user_id, node_id, strict=strict)
            except TimeoutError:
                raise Unavailable("the gateways did not get ready for the race") from None
            async with AsyncExitStack() as stack:
                gates = [
                    await stack.enter_async_context(
                        self._gate(name, strict=strict, reachable=not cut_off or name != RACERS[-1])
                    )
                    for name in RACERS
                ]
                passed = await asyncio.gather(*(_send(gate, user_id, node_id) for gate in gates))
            for name in RACERS:
                await self._report(name, strict=strict)
            oversold = max(0, sum(passed) - left.remaining)
            return RaceResult(left=left.remaining, passed=tuple(passed), oversold=oversold)

    def _gate(self, name: str, *, strict: bool, reachable: bool = True) -> Gate:
        broker = replace(self._broker, client_id=name)
        if not reachable:
            broker = replace(broker, host="127.0.0.1", port=9)  # where nobody listens
        file = self._directory / f"{name}{'-strict' if strict else ''}.db"
        return Gate(broker, file, reporter=name, strict=strict)

    async def _prepare(self, user_id: UUID, node_id: str, *, strict: bool) -> None:
        """Let both know the user, and lease."""
        for name in RACERS:
            async with self._gate(name, strict=strict) as gate:
                await gate.ready()
                while gate.check(user_id, node_id).reason not in {Reason.OK, Reason.NO_LEASE}:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # the document is on its way
                with suppress(TimeoutError):  # the other has what is left
                    await gate.leased(user_id, OUT_OF_LEASES)

    async def _report(self, name: str, *, strict: bool) -> None:
        async with self._gate(name, strict=strict) as gate:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    while gate.status.unacknowledged:  # noqa: ASYNC110  no event says so
                        await asyncio.sleep(0.02)


async def _send(gate: Gate, user_id: UUID, node_id: str) -> int:
    passed = 0
    while True:
        with gate.hold(user_id, node_id) as hold:
            passed += hold.allowed
        if hold.reason is Reason.NO_LEASE:
            try:
                await gate.leased(user_id, OUT_OF_LEASES)
            except TimeoutError:
                return passed
        elif not hold:
            return passed
        await asyncio.sleep(EVERY)
