"""The installation of tests/daemon."""

from tests.daemon.conftest import broker, world

__all__ = ["broker", "world"]
