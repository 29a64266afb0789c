"""What operators' commands work with: the settings, the database, BTCPay, and the operator's name."""

import contextlib
import os
import pwd
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from kosmo_billing_daemon import settings
from kosmo_billing_daemon.admin import finding
from kosmo_billing_daemon.admin.actions import AdminActions, OperatorAction
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.assembly.connections import (
    btcpay_of,
    database_of,
    read_catalogue,
    renewals_of,
    settlement_of,
)
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.cli.frame import caller, run
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.runtime import logs
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.services.auto_renewal import AutoRenewals
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.settings import Settings
from kosmo_billing_daemon.store.migrations import pending
from kosmo_billing_daemon.store.postgres import Pool

T = TypeVar("T")


@record(kw_only=True)
class OpenedServices:
    """One command's surroundings, open as long as it runs."""

    pool: Pool
    btcpay: BtcpayClient
    settlement: Settlement
    operations: AdminActions
    renewals: AutoRenewals
    extending: Extending

    async def user(self, name: str) -> UserId:
        """Return the user whom a name on the command line means."""
        return await finding.resolve(self.pool, name)


def load(env_file: Path | None) -> Settings:
    """Read the settings; a command says itself what it met, so only errors are logged."""
    loaded = settings.load(env_file=env_file)
    logs.configure(logs.Format.TEXT, logs.Level.ERROR)
    return loaded


@contextlib.asynccontextmanager
async def opened(env_file: Path | None) -> AsyncIterator[OpenedServices]:
    """Open what a command needs; raises ``Conflict`` while the schema is not up to date."""
    loaded = load(env_file)
    catalogue = read_catalogue(loaded.plans_file)
    async with Pool(database_of(loaded)) as pool, btcpay_of(loaded) as btcpay:
        missing = await pool.read(pending, loaded.database.schema)
        if missing:
            raise Conflict(f"the database lacks {', '.join(missing)}; run: kosmo-billing migrate")
        settlement = settlement_of(loaded, pool, btcpay)
        operations = AdminActions(pool=pool, settlement=settlement, catalogue=catalogue, clock=utc_now)
        extending = Extending(pool=pool, clock=utc_now, remind_hours=loaded.remind_hours)
        yield OpenedServices(
            pool=pool,
            btcpay=btcpay,
            settlement=settlement,
            operations=operations,
            renewals=renewals_of(loaded, pool),
            extending=extending,
        )


def run_opened(env_file: Path | None, work: Callable[[OpenedServices], Coroutine[Any, Any, T]]) -> T:
    """Run a command's work with what it needs."""

    async def with_services() -> T:
        async with opened(env_file) as at:
            return await work(at)

    return run(with_services())


def by(reason: str) -> OperatorAction:
    """Return the operator action in the name of the caller of sudo, or of the account of this process."""
    asked = caller() or (os.environ.get("SUDO_USER", "").strip() if os.getuid() == 0 else "")
    if asked:
        return OperatorAction(asked, reason)
    try:
        return OperatorAction(pwd.getpwuid(os.getuid()).pw_name, reason)
    except KeyError:
        return OperatorAction(f"uid {os.getuid()}", reason)
