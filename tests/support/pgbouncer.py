"""A real PgBouncer on a free port before a database, in the mode that a test wants."""

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.store.session_settings import PINNED

IGNORED = (*PINNED, "search_path", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
"""What a pooler is told to ignore by those who want us to connect through it."""

_INI = """
[databases]
{name} = host={host} port={port} dbname={name} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = {ignored}
unix_socket_dir =
"""


@asynccontextmanager
async def pgbouncer(
    directory: Path,
    database_url: str,
    *,
    mode: str = "session",
    ignored: str = ",".join(IGNORED),
) -> AsyncIterator[str]:
    """Run one in a directory that an unprivileged child may pass through; gives the URL through it."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program is not None, "pgbouncer is not installed"
    server = urlsplit(database_url)
    account = children.unprivileged_account()
    log, ini = directory / "pgbouncer.log", directory / "pgbouncer.ini"

    def start(port: int) -> subprocess.Popen[bytes]:
        ini.write_text(
            _INI.format(
                name=server.path.lstrip("/"),
                host=server.hostname,
                port=server.port,
                user=server.username,
                password=server.password,
                listen=port,
                mode=mode,
                ignored=ignored,
            )
        )
        ini.chmod(0o644)
        return children.spawn(
            [program, str(ini)], log=log, death_signal=signal.SIGKILL, environment={}, account=account
        )

    def listens(_process: subprocess.Popen[bytes]) -> bool:
        return log.exists() and "process up" in log.read_text(errors="replace")

    process, port = await children.start_listening("PgBouncer", start, listens, log=log, port=None)
    try:
        yield f"postgresql://{server.username}@127.0.0.1:{port}{server.path}"
    finally:
        children.kill_tree(process)
