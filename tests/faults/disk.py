"""A disk that can be full: a file system in memory whose size the test chooses, mounted by the kernel.

It needs root, or sudo that asks nothing, and the right to mount (CAP_SYS_ADMIN in a container).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOMY = "1g"
BLOCK = 4096


@dataclass(frozen=True)
class Disk:
    """One mounted file system; what is on it stays when its size changes."""

    path: Path

    def fill(self) -> None:
        """Leave not one block free: every write that needs a new one gets ENOSPC."""
        room = os.statvfs(self.path)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        _mount("-o", f"remount,size={used}", str(self.path))
        assert os.statvfs(self.path).f_bavail * BLOCK < 10 * BLOCK, "the disk is not full"

    def make_room(self) -> None:
        _mount("-o", f"remount,size={ROOMY}", str(self.path))


@contextmanager
def disk(path: Path) -> Iterator[Disk]:
    """Mount a roomy one at ``path``, which is created."""
    path.mkdir(mode=0o711)
    _mount("-t", "tmpfs", "-o", f"size={ROOMY},mode=0711", "kosmo-test", str(path))
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


def _run(*command: str) -> None:
    asked = list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603  fixed programs
    assert done.returncode == 0, f"{' '.join(asked)} (this test needs the right to mount): {done.stderr}"
