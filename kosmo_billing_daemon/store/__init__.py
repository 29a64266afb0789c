"""Every SQL statement. Functions take the connection first and never open a transaction."""
