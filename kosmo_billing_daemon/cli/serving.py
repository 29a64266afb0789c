"""The daemon itself: run it, bring its schema forward, say its version."""

import asyncio
import gc
import logging

import typer

from kosmo_billing_daemon import __version__, settings
from kosmo_billing_daemon.cli.frame import EnvFile, run, stopped_by_signals
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime import descriptors, logs, systemd_notify

log = logging.getLogger(__name__)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def serve(env_file: EnvFile = None) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C."""
    gc.disable()  # what is made until everything stands is there to stay, and looking through it takes 0.1 s
    loaded = settings.load(env_file=env_file)
    logs.configure(loaded.log_format, loaded.log_level)
    for told in loaded.database.ignored:
        log.info("%s", told)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    descriptors.raise_limit()
    run(_serve(loaded))


async def _serve(loaded: settings.Settings) -> None:
    # Here, because other commands start faster without.
    from kosmo_billing_daemon.assembly.console import DESCRIPTOR  # noqa: PLC0415
    from kosmo_billing_daemon.daemon import Daemon  # noqa: PLC0415

    daemon = Daemon(loaded)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    stop = asyncio.Event()
    sockets = systemd_notify.listen_sockets()
    with stopped_by_signals(stop):
        await daemon.run(
            stop=stop,
            started=lambda started: systemd_notify.ready(f"listening on port {started.port}"),
            status=systemd_notify.status,
            stopping=systemd_notify.stopping,
            alive=systemd_notify.watchdog,
            alive_within=systemd_notify.watchdog_interval(),
            sockets=[taken for name, taken in sockets if name != DESCRIPTOR],
            admin_sockets=[taken for name, taken in sockets if name == DESCRIPTOR],
        )


def migrate(env_file: EnvFile = None) -> None:
    """Bring the database schema forward, and say what was done."""
    loaded = settings.load(env_file=env_file)
    applied = run(_migrate(loaded))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do")


async def _migrate(loaded: settings.Settings) -> tuple[str, ...]:
    from kosmo_billing_daemon.assembly.connections import database_of  # noqa: PLC0415
    from kosmo_billing_daemon.cli.progress import long_work  # noqa: PLC0415 - the daemon needs no bars
    from kosmo_billing_daemon.store import migrations  # noqa: PLC0415
    from kosmo_billing_daemon.store.errors import DatabaseUnfit  # noqa: PLC0415

    try:
        connection = await database_of(loaded).connect(name="kosmo-billing migrate")
        try:
            with long_work(again="what was begun was undone, and the same command begins it again") as shown:
                return await migrations.migrate(connection, loaded.database.schema, shown.begin)
        finally:
            await connection.close()
    except DatabaseUnfit as error:
        raise Misconfigured([error.message]) from error
