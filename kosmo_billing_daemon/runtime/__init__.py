"""What a long-running process needs, whatever it does: clock, waiting, batches, loops, logs, systemd."""
