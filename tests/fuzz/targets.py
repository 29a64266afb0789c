"""Every target by its name: a function of any bytes that raises only where a promise is broken."""

from collections.abc import Callable

from tests.fuzz.edge import gate
from tests.fuzz.reading import btcpay, settings, usage, webhook

TARGETS: dict[str, Callable[[bytes], None]] = {
    "webhook": webhook,
    "usage": usage,
    "btcpay": btcpay,
    "gate": gate,
    "settings": settings,
}
