"""PostgreSQL servers of Debian's, with the programs that the embedded one comes without.

A pg_dump never reads a server newer than itself, so dump and server are of one release.
"""

import os
import signal
import socket
import subprocess
from pathlib import Path

from kosmo_billing_daemon.demo.children import family, unprivileged_account

PROGRAMS = Path("/usr/lib/postgresql")
ROLE = "kosmo"


def programs() -> Path:
    """Where the newest of Debian's PostgreSQL servers has its programs."""
    found = [path for path in PROGRAMS.glob("*/bin") if (path / "initdb").exists()]
    assert found, "a PostgreSQL server with pg_dump is missing: install the package postgresql"
    return max(found, key=lambda path: int(path.parent.name))


class Server:
    """One server of Debian's; ``run`` runs one of its programs against it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.data = directory / "data"
        self.account = unprivileged_account()
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603  our own words
            [programs() / program, *arguments],
            env={
                "PATH": os.defpath,
                "LC_ALL": "C.UTF-8",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": ROLE,
            },
            user=None if self.account is None else self.account.uid,
            group=None if self.account is None else self.account.gid,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def create(self) -> None:
        """Make an empty cluster and start it."""
        data = str(self.data)
        self.run("initdb", "-D", data, "-U", ROLE, "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories= -c fsync=off"
        )
        log = str(self.directory / "log")
        self.run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-t", "60", "-o", options, "start")

    def follow(self, primary: "Server") -> None:
        """Make a streaming standby of a running server and start it."""
        where = f"host=127.0.0.1 port={primary.port} user={ROLE}"
        copied = ("-D", str(self.data), "-d", where, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.run("pg_basebackup", *copied)
        self.start()

    def promote(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-t", "30", "promote")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """SIGKILL the server and every backend, as a power cut would."""
        os.kill(self.pid, signal.SIGSTOP)
        for pid in (*family(self.pid), self.pid):
            os.kill(pid, signal.SIGKILL)

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"
