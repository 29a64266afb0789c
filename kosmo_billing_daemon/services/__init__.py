"""A fact in, one transaction, messages out. No transaction is held across a network call."""
