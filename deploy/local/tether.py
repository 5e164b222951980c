"""Runs a program that dies with its parent: `python tether.py SIGNAL PARENT NAMESPACE program args…`, by exec.

With NAMESPACE "user" it first enters a user namespace in which root looks like uid 1000, because Postgres refuses to
run as root and the home may lie under a folder that only root may enter. Standard library only: it starts in 20 ms.
"""

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


def enter_user_namespace() -> None:
    """Map our uid and gid to 1000 in a namespace of our own; OSError where the machine forbids it."""
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare: this machine allows no user namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")


def tie_to_parent(signal_number: int, parent: int) -> None:
    """Ask the kernel for `signal_number` when the parent dies; leave at once if it is dead already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    signal_number, parent, namespace, *program = sys.argv[1:]
    if namespace == "user":
        enter_user_namespace()
    tie_to_parent(int(signal_number), int(parent))
    if program == ["probe"]:
        return
    os.execv(program[0], program)  # noqa: S606  (an argument list, and no shell is the point)


if __name__ == "__main__":
    main()
