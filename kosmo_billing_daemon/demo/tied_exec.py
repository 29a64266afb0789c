"""Becomes another program that cannot outlive the process which asked for it, even when that one is killed.

Run as a script (`python -I -S tied_exec.py SIGNAL PARENT_PID UID GID PROGRAM ...`), so it needs the standard
library alone. A script, not a `preexec_fn`: code between fork and exec may deadlock where threads exist.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
KEEP_IDENTITY = -1
CANNOT_EXECUTE = 127


def become(death_signal: int, parent: int, uid: int, gid: int, program: list[str]) -> None:
    """Give up root if asked, tie our life to `parent`, and turn into `program`; returns only by raising."""
    if uid != KEEP_IDENTITY:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of user, which would clear it; exec keeps it.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # it died before we could be told
            os.kill(os.getpid(), signal.SIGKILL)
    os.execv(program[0], program)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    try:
        become(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    except OSError as error:
        sys.stderr.write(f"cannot run {sys.argv[5]}: {error}\n")
        sys.exit(CANNOT_EXECUTE)
