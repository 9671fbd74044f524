"""Becomes the program of a child: ``python launch.py PARENT SIGNAL UID GID PROGRAM ARGUMENT...``.

It gives up root unless UID and GID are -1, asks Linux for SIGNAL when the process PARENT dies, and executes PROGRAM
under the same process id. The supervisor runs this file by its path with ``python -I -S`` (15 ms), so it imports
nothing of askmesh.
The supervisor cannot do the same itself: ``preexec_fn`` is unsafe beside the threads that gRPC starts.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, signal, uid, gid = (int(argument) for argument in sys.argv[1:5])
    if uid != -1:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # after setuid, which clears it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)  # the parent died before prctl
    os.execv(sys.argv[5], sys.argv[5:])  # noqa: S606


if __name__ == "__main__":
    main()
