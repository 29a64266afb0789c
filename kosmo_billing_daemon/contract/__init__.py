"""What others rely on: topics and payloads of MQTT, shared by daemon and gate, and paths of the HTTP API.

Standard library only.
"""
