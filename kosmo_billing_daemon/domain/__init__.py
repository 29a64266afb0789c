"""The rules of money and time (R1-R12), pure: no await, *now* is an argument.

Reading order: plans, subscriptions, quoting, invoices, polling, metering, entitlements.
"""
