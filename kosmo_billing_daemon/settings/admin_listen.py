"""Where the operators' console is listened for: a Unix socket, or a port that only this machine reaches."""

import re
from dataclasses import dataclass
from typing import Final

from kosmo_billing_daemon.runtime.host_names import is_loopback
from kosmo_billing_daemon.settings.readers import shown

_LONGEST_PATH: Final = 107  # bytes in sockaddr_un
_PORT = re.compile(r"\[?(?P<host>[0-9A-Za-z.:_-]+?)\]?:(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """A ``path``, or a ``host`` and ``port``; ``is_default`` if nobody chose it."""

    path: str = ""
    host: str = ""
    port: int = 0
    is_default: bool = False

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


DEFAULT: Final = AdminAddress(path="/run/kosmo-billing/admin.sock", is_default=True)


def admin_address(text: str) -> AdminAddress | None:
    """Read a path, or HOST:PORT on loopback; ``None`` (off) for an empty text."""
    text = text.strip()
    if not text or text.lower() == "off":
        return None
    if text.startswith("/"):
        if len(text.encode()) > _LONGEST_PATH or not text.isprintable() or text.endswith("/"):
            raise ValueError(f"a socket's path is a printable name of at most {_LONGEST_PATH} bytes")
        return AdminAddress(path=text)
    found = _PORT.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{shown(text)} is no address; give the path of a Unix socket, 127.0.0.1:PORT, or nothing for off"
        )
    host, port = found["host"].lower(), int(found["port"])
    if not is_loopback(host):
        raise ValueError(
            f"{shown(host)} can be reached from outside, and the console may not; "
            "give a Unix socket or 127.0.0.1:PORT"
        )
    if port > 65535:
        raise ValueError(f"{port} is no port; give one from 0 to 65535")
    return AdminAddress(host=host, port=port)
