"""Sending to operators' endpoints: signed, bounded, and only to addresses that may be called."""
