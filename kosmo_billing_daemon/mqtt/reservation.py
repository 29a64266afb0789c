"""Versions rise whatever is lost: they are reserved before they are used, and a term begins above them.

A database may go back: a backup was restored, a standby promoted that had not received everything, a crash
took commits that were not on disk. So versions that gates hold may be given again. Therefore nothing is
published with a version above the *ceiling*, which stands in the database and in the broker's watermark
before; a term starts by drawing versions above the greater of the two, its *floor*; and what was given a
version not above the floor gets a new one before it is published.
"""

from dataclasses import dataclass, replace

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import entitlements
from kosmo_billing_daemon.store.entitlements import Position
from kosmo_billing_daemon.store.postgres import Connection

BLOCK = 1_000_000
"""Versions reserved at a time, the next when half are used: more than a minute of the fastest publishing."""

GREATEST_CEILING = 2**52
"""A watermark above it is forged: versions must stay what JSON readers hold exactly."""


@dataclass(slots=True)
class Reservation:
    """Versions that may be published: above ``floor``, and up to ``acknowledged`` by the broker.

    ``greatest`` is the greatest version met since.
    """

    floor: int
    ceiling: int
    acknowledged: int
    greatest: int = 0

    @property
    def runs_low(self) -> bool:
        """Whether it is time to reserve more."""
        return self.greatest > self.ceiling - BLOCK // 2


@record
class Start:
    """Where publishing goes on: after which id of the outbox everything is republished.

    ``lost`` is how many documents that are. ``went_back`` says that the database is older than what was
    published.
    """

    position: Position
    after: int
    lost: int
    reservation: Reservation
    went_back: bool


async def start(connection: Connection, remembered: Watermark | None, floor: int | None) -> Start:
    """Find out where to go on from what the broker remembers; ``floor`` is that of the term if it has one.

    Commits each step by itself, and after any of them a repeat begins at least as high.
    """
    position = await entitlements.load_position(connection)
    if remembered is None:
        remembered = Watermark(sequence=0, entitlements=0, version_ceiling=0, database=position.database)
    told, after = remembered.version_ceiling, remembered.sequence
    ceiling = position.version_ceiling
    is_other = remembered.database != position.database
    went_back = not is_other and (told > ceiling or after > position.sequence)
    if is_other or went_back or (floor is None and told < ceiling):
        after = 0  # nothing that was published is trusted to be what gates hold
    if floor is None or is_other or went_back:
        floor, told = max(told, ceiling, remembered.sequence if went_back else 0), 0
        await entitlements.begin_versions_above(connection, floor)
        ceiling = await entitlements.reserve_versions(connection, floor, BLOCK)
    if went_back:
        sequence = max(position.sequence, remembered.sequence)
        position = replace(position, sequence=sequence, version_ceiling=ceiling)
    lost = await entitlements.count_above(connection, after) if after < position.sequence else 0
    return Start(position, after, lost, Reservation(floor, ceiling, min(told, ceiling)), went_back)
