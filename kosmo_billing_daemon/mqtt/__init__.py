"""Message <-> service call, spoken by the leader alone.

Reading order: publisher (changed rows to topics), outbox_reader (what waits in the database), waiting (who is
due when), ack_writer (what the broker confirmed), republisher (what it may have lost), watermark,
watermark_tracker and reservation (how far publication has come), refusals (the alarm about an ACL), repair
(what the broker holds), usage_intake, time_answers, broker_session (one connection from birth to end).
"""
