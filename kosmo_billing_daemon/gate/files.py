"""Names of the files that belong together, and waiting for the disk."""

import os
from pathlib import Path


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def fsync_path(path: Path) -> None:
    """Wait until the kernel has written a file or directory to the disk. Never for a database file itself:
    closing it would drop SQLite's locks on it; its ``-wal`` carries none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
