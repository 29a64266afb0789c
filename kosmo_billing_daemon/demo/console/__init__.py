"""The demo's page: plans, a simulated checkout, live rights, messages allowed and refused, MQTT as it passes.

Read ``tap`` (what crosses MQTT), ``proxy`` (one origin for the page), then ``server``; the page itself is in
``static``, plain modules that a browser reads as they are. The rule it keeps: the page does only what a real
front end, gateway or payer could do, over the same interfaces.
"""

from kosmo_billing_daemon.demo.console.server import USERS, Console

__all__ = ["USERS", "Console"]
