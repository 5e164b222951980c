"""Runs a program that dies with its parent: `python tether.py SIGNAL PARENT IDENTITY program args…`, by exec.

IDENTITY is `same`; `namespace:UID`, a user namespace in which we look like UID (Postgres refuses to run as root, and
the home may lie under a folder that only root may enter); or `user:UID`, which gives up root for good.
Standard library only: it starts in 20 ms. With `probe PATH…` for a program it only tells whether all paths may be used.
"""

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


def become(identity: str) -> None:
    """Take on the identity; OSError where the machine forbids it."""
    kind, _, uid = identity.partition(":")
    if kind == "namespace":
        enter_user_namespace(int(uid))
    elif kind == "user":
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))


def enter_user_namespace(looks_like: int) -> None:
    """Map our uid and gid to `looks_like` in a namespace of our own."""
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare: this machine allows no user namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{looks_like} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{looks_like} {gid} 1")


def tie_to_parent(signal_number: int, parent: int) -> None:
    """Ask the kernel for `signal_number` when the parent dies; leave at once if it is dead already.

    Comes after `become`: the kernel forgets the wish when the uid changes.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)


def probe(paths: list[str]) -> None:
    """Exit with a reason unless every folder may be written and every file executed by who we are now."""
    for path in paths:
        if not os.access(path, os.W_OK | os.X_OK if Path(path).is_dir() else os.X_OK):
            sys.exit(f"no access to {path}")


def main() -> None:
    signal_number, parent, identity, *program = sys.argv[1:]
    become(identity)
    tie_to_parent(int(signal_number), int(parent))
    if program[0] == "probe":
        probe(program[1:])
        return
    os.execv(program[0], program)  # noqa: S606  (an argument list, and no shell is the point)


if __name__ == "__main__":
    main()
