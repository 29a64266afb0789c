"""A shop as the services' tests have it."""

from tests.services.conftest import clock, shop, simulator, user

__all__ = ["clock", "shop", "simulator", "user"]
