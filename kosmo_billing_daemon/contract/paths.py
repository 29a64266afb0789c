"""Where the HTTP API is, for everybody who makes or reads an address of it."""

ADMIN = "/admin"
API = "/api/v1/billing"
RENEWAL = "/r"
WEBHOOK = f"{API}/webhooks/btcpay"
