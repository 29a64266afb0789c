"""What the pages work with, and how a handler gets it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from kosmo_billing_daemon.admin.access import ConsoleAccess, Operator
from kosmo_billing_daemon.admin.actions import AdminActions
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Readiness


@record(kw_only=True)
class Desk:
    """Everything an operator's page may need; ``admin``'s classes are built from it where they are used."""

    pool: Pool
    clock: Clock
    access: ConsoleAccess
    operations: AdminActions
    extending: Extending
    renewals: AutoRenewals
    settlement: Settlement
    links: RenewalLinks
    readiness: Callable[[], Awaitable[Readiness]]

    def on(self, pool: Pool) -> "Desk":
        """Return a desk that works on another pool, such as one where everything is undone."""
        settlement = replace(self.settlement, pool=pool, changed=_nothing, announce=_nothing)
        return replace(
            self,
            pool=pool,
            settlement=settlement,
            operations=replace(self.operations, pool=pool, settlement=settlement),
            extending=replace(self.extending, pool=pool),
            renewals=replace(self.renewals, pool=pool),
        )


def _nothing(*_: object) -> None:
    """Tell nobody."""


DESK: web.AppKey[Desk] = web.AppKey("desk", Desk)
OPERATOR: web.RequestKey[Operator | None] = web.RequestKey("operator")


def operator_of(request: web.Request) -> Operator:
    """Return who is logged in; the guard lets nobody else come to a page that asks."""
    operator = request[OPERATOR]
    assert operator is not None  # noqa: S101 - the guard's promise
    return operator
