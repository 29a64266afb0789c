"""The two packets of MQTT we write and read ourselves: PUBLISH and its acknowledgement.

paho 2.2 spends more on reading one acknowledgement (57 objects for its properties alone) than everything else
on the way of a publication costs, and takes the code 0x95, packet too large, in one for a protocol error.
"""

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

PUBACK = 0x40
PACKET_TOO_LARGE, RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x95, 0x9A, 0x9B  # MQTT 5 reason codes


def check_publication(topic: str, qos: int) -> None:
    """Raise ``ValueError`` for what no broker takes and most answer by cutting the connection."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > 65_535:
        raise ValueError(f"not a topic to publish to, empty, too long or with a wildcard: {topic[:200]!r}")
    if qos not in (0, 1):
        raise ValueError("publications are QoS 0 or 1")


def publish_packet(topic: bytes, payload: bytes, *, retain: bool, qos: int, mid: int, v5: bool) -> bytes:
    """A PUBLISH without properties; ``mid`` counts for QoS 1 only."""
    head = b"".join(
        (len(topic).to_bytes(2, "big"), topic, mid.to_bytes(2, "big") if qos else b"", b"\0" if v5 else b"")
    )
    remaining = len(head) + len(payload)
    start = bytearray((0x30 | qos << 1 | retain,))
    while remaining > 0x7F:
        start.append(0x80 | remaining & 0x7F)
        remaining >>= 7
    start.append(remaining)
    return b"".join((start, head, payload))


def packet_end(data: bytes, start: int) -> int | None:
    """Where the packet at ``start`` ends; None while incomplete, ``ValueError`` if it cannot be one."""
    remaining = 0
    for position in range(1, 5):
        if start + position >= len(data):
            return None
        byte = data[start + position]
        remaining |= (byte & 0x7F) << 7 * (position - 1)
        if byte < 0x80:
            end = start + position + 1 + remaining
            return end if end <= len(data) else None
    raise ValueError("a packet length of more than four bytes")


def acknowledged(packet: bytes) -> tuple[int, int]:
    """The packet id and reason code of a PUBACK; success, and all of MQTT 3.1.1, may leave the code out."""
    start = 2
    while packet[start - 1] >= 0x80:  # a long reason in words makes the length longer
        start += 1
    body = packet[start:]
    if len(body) < 2:
        raise ValueError("half an acknowledgement")
    return int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0


def reason(code: int) -> str:
    """A PUBACK's code in words."""
    if code == PACKET_TOO_LARGE:  # unknown to paho 2.2 in a PUBACK
        return "Packet too large"
    try:
        return str(ReasonCode(PacketTypes.PUBACK, identifier=code))
    except (KeyError, ValueError, AssertionError):
        return f"code {code:#x}"
