"""The two packets of MQTT we write and read ourselves: PUBLISH and its acknowledgement.

paho 2.2 spends more on reading one acknowledgement (57 objects for its properties alone) than everything else
on the way of a publication costs, and takes the code 0x95, packet too large, in one for a protocol error.
A broker passes on the properties that a publisher gave, whoever it is: paho reads 18,000 of them, one packet,
in 1.6 s, and takes the legal U+FEFF in one for a protocol error, which would end every link on which that
message comes again. We use none, so they are passed over unread.
"""

from functools import lru_cache

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from kosmo_billing_daemon.link.broker import Message

PUBLISH, PUBACK = 0x30, 0x40  # the upper half of a packet's first byte
PACKET_TOO_LARGE, RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x95, 0x9A, 0x9B  # MQTT 5 reason codes


def check_publication(topic: str, qos: int) -> None:
    """Raise ``ValueError`` for what no broker takes and most answer by cutting the connection."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > 65_535:
        raise ValueError(f"not a topic to publish to, empty, too long or with a wildcard: {topic[:200]!r}")
    if qos not in (0, 1):
        raise ValueError("publications are QoS 0 or 1")


def publish_packet(topic: bytes, payload: bytes, *, retain: bool, qos: int, mid: int, v5: bool) -> bytes:
    """A PUBLISH without properties; ``mid`` counts for QoS 1 only."""
    length = 2 + len(topic) + 2 * qos + v5 + len(payload)
    return b"".join(
        (
            _START[qos][retain],
            _written(length),
            len(topic).to_bytes(2, "big"),
            topic,
            mid.to_bytes(2, "big") if qos else b"",
            b"\0" if v5 else b"",
            payload,
        )
    )


_START = [[bytes([PUBLISH | qos << 1 | retain]) for retain in (0, 1)] for qos in (0, 1)]


@lru_cache(1000)
def _written(length: int) -> bytes:
    """Write a length, seven bits to the byte."""
    low, rest = length & 0x7F, length >> 7
    return bytes([0x80 | low]) + _written(rest) if rest else bytes([low])


def packet_end(data: bytes | bytearray, start: int) -> int | None:
    """Where the packet at ``start`` ends; None while incomplete, ``ValueError`` if it cannot be one."""
    try:
        length = data[start + 1]
        body = start + 2
        if length >= 0x80:  # longer than an acknowledgement
            length, body = _length(data, start + 1)
    except IndexError:
        return None
    return body + length if body + length <= len(data) else None


def _length(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """The length written at ``start``, seven bits to the byte, and its end; ``IndexError`` if cut off."""
    length = 0
    for place in range(4):
        byte = data[start + place]
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return length, start + place + 1
    raise ValueError("a length of more than four bytes")


def publication(packet: bytes, origin: object, *, v5: bool) -> Message:
    """Read a PUBLISH of QoS 0 or 1, all we subscribe with; ``ValueError`` or ``IndexError`` if it is none."""
    qos = packet[0] >> 1 & 3
    if qos > 1:
        raise ValueError(f"a publication of QoS {qos}")
    _, start = _length(packet, 1)
    name = start + 2
    mid = name + int.from_bytes(packet[start:name], "big")
    payload = mid + 2 * qos
    packet_id = int.from_bytes(packet[mid:payload], "big")
    if v5:
        properties, payload = _length(packet, payload)
        payload += properties
    if mid == name or payload > len(packet):
        raise ValueError("half a publication, or one without a topic")
    return Message(
        topic=packet[name:mid].decode(),
        payload=packet[payload:],
        retain=bool(packet[0] & 1),
        qos=qos,
        duplicate=bool(packet[0] & 8),
        mid=packet_id,
        origin=origin,
    )


def acknowledged(packet: bytes) -> tuple[int, int]:
    """The packet id and reason code of a PUBACK; success, and all of MQTT 3.1.1, may leave the code out."""
    start = 2
    while packet[start - 1] >= 0x80:  # a long reason in words makes the length longer
        start += 1
    if len(packet) < start + 2:
        raise ValueError("half an acknowledgement")
    code = packet[start + 2] if len(packet) > start + 2 else 0
    return packet[start] << 8 | packet[start + 1], code


def reason(code: int) -> str:
    """A PUBACK's code in words."""
    if code == PACKET_TOO_LARGE:  # unknown to paho 2.2 in a PUBACK
        return "Packet too large"
    try:
        return str(ReasonCode(PacketTypes.PUBACK, identifier=code))
    except (KeyError, ValueError, AssertionError):
        return f"code {code:#x}"
