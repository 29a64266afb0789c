"""A Unix socket of our own: one that a dead process left behind is replaced, one in use is not touched."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

MODE = 0o660  # who reaches it may only ask to log in
_PROBE_SECONDS = 1.0


@contextlib.contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    """Listen there; raises ``OSError`` in plain words. The file is gone afterwards, if it is still ours."""
    with _alone(path):
        _make_way(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~MODE)
        try:
            listening.bind(str(path))
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
        finally:
            os.umask(before)
        listening.setblocking(False)
        own = path.stat()
    try:
        yield listening
    finally:
        listening.close()
        with contextlib.suppress(OSError), _alone(path):
            if os.path.samestat(path.lstat(), own):
                path.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let no other daemon replace the file at the same time."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _make_way(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "something else than a socket is there", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except TimeoutError:  # its queue is full: somebody listens, and is busy
            raise _in_use(path) from None
        else:
            raise _in_use(path)


def _in_use(path: Path) -> OSError:
    return OSError(errno.EADDRINUSE, "another daemon listens there", str(path))
