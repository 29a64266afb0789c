"""BTCPay Server over its Greenfield API: the client, what crosses the wire, and the webhook signature."""

import sys

# httpx brings its command line along, with rich and pygments: 0.1 s of every start, and 4 MB. It can miss it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # that it cannot be imported
