"""Moving in from KosmoConnect v0.1: which column of its tables means what, and what becomes of their rows.

Reading order: old_tables (what there is), mapping (what an operator may write down), guessing (what is taken
for granted otherwise), reading (one row of an old table, or why it cannot be read), deciding (all rows of one
user).
"""
