"""What serves the operators' console in every daemon, whether it leads or not: never on the public port."""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from kosmo_billing_daemon.admin.access import ConsoleAccess
from kosmo_billing_daemon.admin.actions import AdminActions
from kosmo_billing_daemon.admin.extending import Extending
from kosmo_billing_daemon.assembly.connections import renewals_of
from kosmo_billing_daemon.assembly.front import CannotListen
from kosmo_billing_daemon.console.app import build_console
from kosmo_billing_daemon.console.desk import Desk
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.settings import AdminAddress, Settings
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.server.admission import Admission
from kosmo_billing_daemon.web.server.draining import drain
from kosmo_billing_daemon.web.server.serving import serve
from kosmo_billing_daemon.web.server.unix_socket import listening_at

log = logging.getLogger(__name__)

DESCRIPTOR = "admin"
"""``FileDescriptorName=`` of the socket that systemd holds for the console."""

MOST_CONNECTIONS = 64  # a few operators with a few tabs


class ConsoleServer:
    """The console's application and its own admission, so that it takes nothing from customers."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool: Pool,
        settlement: Settlement,
        links: RenewalLinks,
        clock: Clock,
        readiness: Callable[[], Awaitable[Readiness]],
    ) -> None:
        self._address = settings.admin_listen
        renewals = renewals_of(settings, pool, clock)
        self._app = build_console(
            Desk(
                pool=pool,
                clock=clock,
                access=ConsoleAccess(pool=pool, clock=clock),
                operations=AdminActions(
                    pool=pool, settlement=settlement, catalogue=renewals.catalogue, clock=clock
                ),
                extending=Extending(pool=pool, clock=clock, remind_hours=settings.remind_hours),
                renewals=renewals,
                settlement=settlement,
                links=links,
                readiness=readiness,
            )
        )

    @contextlib.asynccontextmanager
    async def serving(self, sockets: Sequence[socket.socket]) -> AsyncIterator[str]:
        """Listen on these sockets or where the settings say, and give the address; empty if it is off.

        Raises ``CannotListen``, and ``Misconfigured`` for a socket that others could reach. A place that
        nobody chose is no reason not to take money: then there is no console.
        """
        if self._address is None:
            if sockets:
                log.warning(
                    "the console is off, but systemd holds a socket for it: mask kosmo-billing-admin.socket"
                )
            yield ""
            return
        for inherited in sockets:
            require_local(inherited)
        with contextlib.ExitStack() as stack:
            try:
                listening = list(sockets) or [stack.enter_context(_listening(self._address))]
            except OSError as error:
                told = f"the console cannot listen on {self._address}: {error.strerror}"
                if not self._address.is_default:
                    raise CannotListen(f"{told}; change ADMIN_LISTEN, or leave it empty") from error
                log.info("%s; set ADMIN_LISTEN to have one", told)
                yield ""
                return
            runner, _ = await serve(
                self._app, host="", port=0, sockets=listening, admission=Admission(most=MOST_CONNECTIONS)
            )
            address = _address_of(listening[0])
            log.info("console at %s", address)
            try:
                yield address
            finally:
                await drain(runner, listening)


@contextlib.contextmanager
def _listening(address: AdminAddress) -> Iterator[socket.socket]:
    if address.path:
        with listening_at(Path(address.path)) as listening:
            yield listening
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.create_server((address.host, address.port), family=family) as made:
        made.setblocking(False)
        yield made


def _address_of(listening: socket.socket) -> str:
    name = listening.getsockname()
    return str(
        AdminAddress(host=name[0], port=name[1]) if isinstance(name, tuple) else AdminAddress(path=name)
    )


def require_local(inherited: socket.socket) -> None:
    """Refuse a socket that is reached from elsewhere, whoever opened it."""
    if inherited.family == socket.AF_UNIX:
        return
    host = str(inherited.getsockname()[0])
    if not ip_address(host).is_loopback:
        raise Misconfigured(
            [f"the socket named {DESCRIPTOR} listens on {host}, which others reach: the console may not"],
            "let kosmo-billing-admin.socket listen on a path or on 127.0.0.1",
        )
