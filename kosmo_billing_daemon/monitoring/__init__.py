"""How the daemon is: readiness for probes, and what metrics collect from its parts."""
