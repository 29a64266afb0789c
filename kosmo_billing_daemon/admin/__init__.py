"""What operators do and see: actions, one user's overview, and ``kosmo-billing check``."""
