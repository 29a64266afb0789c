"""A mosquitto with exactly the files of config/mosquitto, installed as their headers say."""

import os
import re
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kosmo_billing_daemon.link import Broker
from tests.support.mosquitto import Mosquitto, free_port

FILES = Path(__file__).parents[2] / "config" / "mosquitto"
DAEMON, OPERATOR, GATEWAY, BRIDGE = "kosmo-billing", "operator", "gateway-1", "bridge-1"
NAMELESS = "stranger"  # has a password and no block in the rights
PASSWORD = "secret of the tests"
_COMMAND = re.compile(r"^#    \$ (.+)$", re.MULTILINE)


class ShippedMosquitto(Mosquitto):
    """The broker an operator gets who types the commands in the headers; only paths and ports are others."""

    def __init__(self) -> None:
        super().__init__()
        self.tls_port = 0
        self._ports_of = 0
        self._installed = False

    @property
    def authority(self) -> Path:
        """The certificate that clients are given."""
        return self.directory / "certs" / "ca.crt"

    @property
    def acl(self) -> Path:
        return self.directory / "kosmo-billing.acl"

    @property
    def passwords(self) -> Path:
        return self.directory / "kosmo-billing.passwords"

    def at(self, user: str, *, tls: bool = False, **changes: Any) -> Broker:
        """As whom to connect, by which way in."""
        known = Broker(
            host=self.host,
            port=self.tls_port if tls else self.port,
            client_id=user,
            username=user,
            password=PASSWORD,
            tls=self.trust() if tls else None,
        )
        return replace(known, **changes)

    def trust(self) -> ssl.SSLContext:
        """What Python 3.13 demands of certificates by default, on every version."""
        context = ssl.create_default_context(cafile=self.authority)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def type(self, *lines: str) -> None:
        """Run commands as the headers write them, in one shell, from the directory of the shipped files."""
        script = "\n".join(map(self._here, lines))
        done = subprocess.run(  # noqa: S603  our own words
            ["/bin/sh", "-ec", script], cwd=FILES, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stderr}"

    def _here(self, line: str) -> str:
        user, group = os.getuid(), os.getgid()
        line = line.replace("/etc/mosquitto", str(self.directory))
        line = line.replace("mosquitto:mosquitto", f"{user}:{group}")
        line = line.replace("-o mosquitto -g mosquitto", f"-o {user} -g {group}")
        line = line.replace("DNS:mqtt.example.org", "IP:127.0.0.1")
        if line.startswith("mosquitto_passwd ") and " -D " not in line:
            # It asks at a terminal; -b takes the password from the command line.
            line = line.replace("mosquitto_passwd ", "mosquitto_passwd -b ", 1) + f" '{PASSWORD}'"
        return line

    async def reload(self, *, acl: str | None = None, users: Mapping[str, str] | None = None) -> None:
        """SIGHUP, as `systemctl reload mosquitto` sends it."""
        assert acl is None
        assert users is None
        await super().reload()

    def _write_files(self) -> None:
        if not self._installed:
            (self.directory / "certs").mkdir()
            (self.directory / "conf.d").mkdir()
            (self.directory / "lib").mkdir()
            self.type(*commands("kosmo-billing.conf"))
            for user in (BRIDGE, NAMELESS):
                self.type(f"mosquitto_passwd /etc/mosquitto/kosmo-billing.passwords {user}")
            self._installed = True
        if self._ports_of != self.port:
            self._ports_of, self.tls_port = self.port, free_port()
        text = (FILES / "kosmo-billing.conf").read_text()
        text = text.replace("/etc/mosquitto", str(self.directory))
        text = text.replace("\nlistener 8883\n", f"\nlistener {self.tls_port}\n")
        text = text.replace("\nlistener 1883 127.0.0.1\n", f"\nlistener {self.port} 127.0.0.1\n")
        (self.directory / "conf.d" / "kosmo-billing.conf").write_text(text)
        debian = [
            "persistence true",
            f"persistence_location {self.directory}/lib/",
            "log_dest stderr",
            f"include_dir {self.directory}/conf.d",
        ]
        if os.geteuid() == 0:
            debian.append("user root")  # it would become `mosquitto`, which may not read here
        (self.directory / "mosquitto.conf").write_text("".join(f"{line}\n" for line in debian))


def commands(name: str) -> list[str]:
    """The commands in the header of a shipped file, in order."""
    return _COMMAND.findall((FILES / name).read_text())
