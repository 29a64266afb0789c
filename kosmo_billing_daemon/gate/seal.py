"""A checksum of the whole state file, left beside it at an orderly close. A file that still has it need not
be examined row by row, which takes as long again as reading it.

It is a hint and never the truth. Whatever happens to the file afterwards, a flipped bit, a write of another
program, a power cut in the middle of a checkpoint, makes it differ from its seal, and a log beside it says
that there is more than the file. Then everything is examined.
"""

import contextlib
from pathlib import Path
from zlib import crc32

from kosmo_billing_daemon.gate.files import beside

_CHUNK = 1 << 20


def seal(path: Path) -> None:
    """Leave the seal of a file that was closed; without one where that is impossible."""
    with contextlib.suppress(OSError):
        if not _has_log(path):
            beside(path, ".seal").write_text(_sum(path))


def break_seal(path: Path) -> bool:
    """Remove the seal before the file is used, and say whether the file was as it had been sealed."""
    broken = beside(path, ".seal")
    try:
        is_whole = not _has_log(path) and broken.read_text() == _sum(path)
    except (OSError, ValueError):
        is_whole = False
    with contextlib.suppress(OSError):
        broken.unlink()
    return is_whole


def _has_log(path: Path) -> bool:
    log = beside(path, "-wal")
    return log.exists() and log.stat().st_size > 0


def _sum(path: Path) -> str:
    value, size = 0, 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            value, size = crc32(chunk, value), size + len(chunk)
    return f"{value:08x} {size}"
