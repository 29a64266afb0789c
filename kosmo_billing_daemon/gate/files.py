"""Names of the files that belong together, waiting for the disk, and what it or SQLite found wrong."""

import os
from pathlib import Path


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def sqlite_code(error: Exception) -> int:
    """SQLite's primary code of an error; 0 for one that is none of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def fsync_path(path: Path) -> None:
    """Wait until the kernel has written a file or directory to the disk. Never for a database file itself:
    closing it would drop SQLite's locks on it; its ``-wal`` carries none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
