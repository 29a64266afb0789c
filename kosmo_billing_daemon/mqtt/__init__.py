"""Message <-> service call, spoken by the leader alone.

Reading order: publisher (changed rows to topics), ack_writer (what the broker confirmed), watermark_tracker,
watermark and reservation (how far publication has come), refusals (the alarm about an ACL), repair (what the
broker lost), usage_intake, time_answers, broker_session (one connection, from its birth message to its end).
"""
