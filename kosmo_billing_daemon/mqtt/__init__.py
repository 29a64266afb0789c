"""Message <-> service call, spoken by the leader alone.

Reading order: publisher (changed rows to topics), progress (the watermark), refusals (the alarm about an
ACL), repair (what the broker lost), conversation (one connection from hello to goodbye, and the next).
"""
