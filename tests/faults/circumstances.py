"""Runs a program under other circumstances: `circumstances.py [--descriptors N] [--no-privileges] PROGRAM ...`."""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys
from pathlib import Path

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def under(*circumstances: str) -> list[str]:
    """Return what to put before a command."""
    return [sys.executable, str(Path(__file__)), *circumstances, "--"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptors", type=int, help="how many files and sockets it may have open")
    parser.add_argument("--no-privileges", action="store_true", help="file modes count for it, though it is root")
    parser.add_argument("program", nargs="+")
    wanted = parser.parse_args()
    if wanted.descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted.descriptors, wanted.descriptors))

    if wanted.no_privileges and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "cannot give up a capability")

    os.execv(wanted.program[0], wanted.program)  # noqa: S606 # it becomes the program


if __name__ == "__main__":
    main()
