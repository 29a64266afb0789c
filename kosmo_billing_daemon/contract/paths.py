"""Where the HTTP API is, for everybody who makes or reads an address of it."""

API = "/api/v1/billing"
RENEWAL = "/r"
WEBHOOK = f"{API}/webhooks/btcpay"
