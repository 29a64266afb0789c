"""How the parts of one daemon are built from the settings."""
