"""What crosses MQTT, shared by daemon and gate: topics and payloads. Standard library only."""
