"""What can stand where a host is named."""

import re
from ipaddress import ip_address

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


def is_host_name(text: str) -> bool:
    return _HOST_NAME.fullmatch(text) is not None


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(name).is_loopback if is_address(name) else name == "localhost"
