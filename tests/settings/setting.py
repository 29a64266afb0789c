"""Environments for the settings tests: one that is complete, and what is said about any other."""

import pytest

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.settings import Settings, load

COMPLETE = {
    "BTCPAY_URL": "https://btcpay.example.org",
    "BTCPAY_API_KEY": "key-of-the-store",
    "BTCPAY_STORE_ID": "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776",
    "DATABASE_URL": "postgresql://billing@db.example.org/kosmo",
}


def loaded(**variables: str) -> Settings:
    return load(COMPLETE | variables)


def problems(**variables: str) -> list[str]:
    """What is said about the complete environment with these on top."""
    with pytest.raises(Misconfigured) as refused:
        loaded(**variables)
    return list(refused.value.problems)


def problem(**variables: str) -> str:
    (only,) = problems(**variables)
    return only
