"""BTCPay Server over its Greenfield API: the client, what crosses the wire, and the webhook signature."""
