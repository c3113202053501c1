"""The preloaded shim as seen from a test: what it is to do to a node's process, and how often it did."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from tests.cluster.cluster import NodeProcess

SOURCE = Path(__file__).with_name("shim.c")

_RULE = struct.Struct("8q64s")
_CLOCK = struct.Struct("2q")
_KINDS = ("sync", "write", "read")
_FIELDS = ("calls", "fail_from", "fail_to", "error", "failed", "kill_at", "failed_by", "again")

ALWAYS = (1 << 63) - 1


def compile_shim(folder: Path) -> Path:
    """Compile the shim; return the library."""
    library = folder / "shim.so"
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Rule:
    """One kind of call on the files whose path holds `part`: counted, and made to fail or to kill."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset

    def watch(self, part: str) -> None:
        """Count the calls on such files from now on, and let them be."""
        _RULE.pack_into(self._memory, self._offset, 0, 0, 0, 0, 0, 0, 0, 0, part.encode())

    def fail(self, part: str, error: int, *, first: int = 1, last: int = ALWAYS) -> None:
        """Make calls fail with `error`: from the `first` from now on to the `last`."""
        _RULE.pack_into(self._memory, self._offset, 0, first, last, error, 0, 0, 0, 0, part.encode())

    def kill(self, part: str, at: int) -> None:
        """Have the process killed in the call of that number from now on."""
        _RULE.pack_into(self._memory, self._offset, 0, 0, 0, 0, 0, at, 0, 0, part.encode())

    def stop(self) -> None:
        """Let everything be; the counts stay."""
        _RULE.pack_into(self._memory, self._offset, self.calls, 0, 0, 0, self.failed, 0, 0, self.again, b"")

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return self._field("calls")

    @property
    def failed(self) -> int:
        """How many were made to fail."""
        return self._field("failed")

    @property
    def again(self) -> int:
        """How many calls there were, after one was made to fail, by the thread that made it."""
        return self._field("again")

    def _field(self, name: str) -> int:
        value: int = _RULE.unpack_from(self._memory, self._offset)[_FIELDS.index(name)]
        return value


class Shim:
    """What stands between one node's process and its C library."""

    def __init__(self, library: Path, control: Path) -> None:
        size = _RULE.size * len(_KINDS) + _CLOCK.size
        control.write_bytes(bytes(size))
        with control.open("r+b") as file:
            memory = self._memory = mmap.mmap(file.fileno(), size)

        self.sync, self.write, self.read = (Rule(memory, number * _RULE.size) for number in range(len(_KINDS)))
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CONTROL": str(control)}

    def set_clock(self, ahead: int) -> None:
        """Put the wall clock this many seconds ahead."""
        _CLOCK.pack_into(self._memory, _RULE.size * len(_KINDS), ahead, self.clock_reads)

    @property
    def clock_reads(self) -> int:
        """How often the wall clock was read while it was not right."""
        reads: int = _CLOCK.unpack_from(self._memory, _RULE.size * len(_KINDS))[1]
        return reads


class Shims:
    """A shim for each node of a cluster."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._folder = folder
        self._shims: dict[str, Shim] = {}

    def put_before(self, node: NodeProcess) -> None:
        """Have the node's processes run with a shim."""
        shim = self._shims[node.name] = Shim(self._library, self._folder / f"{node.name}.control")
        node.environment = shim.environment

    def __getitem__(self, node: NodeProcess) -> Shim:
        return self._shims[node.name]
