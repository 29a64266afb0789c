"""Quotes as somebody else's SQL writes them: the row, and the id that follows from it."""

WANDERER = "'wanderer', 5, 'USD', '30 days', 50, 'any_node', '{}'"
GUARDIAN = "'guardian', 12, 'USD', '30 days', 500, 'any_node', '{}'"


def quoting(content: str, sql: str) -> str:
    """A statement that refers to a quote by ``:quote``, which is there afterwards."""
    columns = "plan_type, amount, currency, period, quota, scope, features"
    row = f"INSERT INTO quotes ({columns}) VALUES ({content}) ON CONFLICT DO NOTHING"  # noqa: S608  constants
    return f"WITH quoted AS ({row}) {sql}".replace(":quote", f"quote_id({content})")
