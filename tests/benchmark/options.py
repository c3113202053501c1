"""What a run is asked for on its command line."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cluster import sources
from .profiler import PROFILERS

LEVELS = (1, 16, 64, 256, 1024)
SECONDS = 3.0
SLICE = 0.5
SLICES = 30
MEMORY_WRITES = 1_000_000
BATCH_SECONDS = 0.005
"""With 64 in flight and more PySyncObj was fastest so; at 0.001 its ticks cost more than they bring."""


@dataclass(frozen=True, slots=True)
class Options:
    """One run, as asked for; `mode` is `levels` or the name of a long run."""

    mode: str
    amount: int
    """What the mode counts: writes, entries, kills or seconds."""
    levels: tuple[int, ...] | None
    seconds: float
    rounds: int | None
    at: str
    loop: str
    storage: str
    consensus: str
    transport: str
    pysyncobj: bool
    batch_seconds: float
    """How often a batching PySyncObj sends; 0: none is measured."""
    json: Path | None
    plot: Path | None
    plotting: bool
    data_dir: Path | None
    profile: Path | None
    profiler: str
    against: Path | None
    """The other tree; None: this one."""
    against_python: Path | None
    """The other interpreter; None: this one."""

    def in_flight(self, default: int) -> int:
        """Return the one level of a long run: the last of `--in-flight`."""
        return self.levels[-1] if self.levels else default


def installed(name: str) -> bool:
    """Say whether a module can be imported."""
    return importlib.util.find_spec(name) is not None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return what the command line asks for; a mistake in it ends the process with a usage line."""
    loops = [loop for loop in ("uvloop", "asyncio", "trio") if installed(loop)]
    parser = argparse.ArgumentParser(
        prog="nox -s benchmark --",
        description="Acknowledged writes a second of three processes on this machine, beside PySyncObj's.",
    )
    parser.add_argument("--in-flight", type=_levels, metavar="N,N,…", help=f"the levels; default {_joined(LEVELS)}")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"measured time of each level; default {SECONDS:g}, of slices {SLICE:g}",
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"measure so often, show the median; default 1, of slices {SLICES}",
    )
    parser.add_argument("--at", default="leader", choices=["leader", "follower"], help="where the writes are proposed")
    parser.add_argument("--loop", default=loops[0], choices=loops)
    parser.add_argument("--storage", default="sqlite", choices=["sqlite", "memory"])
    parser.add_argument("--consensus", default="raft-rs", metavar="ENGINE", help="default raft-rs")
    parser.add_argument("--transport", default="tcp", choices=["tcp", "grpc"])
    parser.add_argument("--no-pysyncobj", action="store_true", help="measure riteraft alone")
    parser.add_argument(
        "--pysyncobj-batch",
        type=float,
        default=BATCH_SECONDS,
        metavar="S",
        help=f"measure PySyncObj also with batches, sent every S seconds; default {BATCH_SECONDS:g}, 0: do not",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go; default within .benchmark/")
    parser.add_argument("--plot", type=_picture, metavar="FILE", help="where the picture goes (.png or .svg); likewise")
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="make the nodes' folders within this one")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="profile the proposer, into FILE.N for each level")
    parser.add_argument(
        "--profiler",
        default=PROFILERS[0],
        choices=PROFILERS,
        help="cpu: stacks by CPU time, for flame graphs (default); calls: cProfile, for pstats",
    )
    slices = parser.add_argument_group("this tree beside another, in short slices in random turn")
    slices.add_argument(
        "--against",
        type=_tree,
        metavar="FOLDER",
        help="another checkout: its Python sources, with the packages and the native module of this one",
    )
    slices.add_argument(
        "--against-python",
        type=_interpreter,
        metavar="FILE",
        help="another interpreter with all that is needed, as of the other checkout's own .nox/benchmark-*/bin/python",
    )
    modes = parser.add_argument_group("long runs, of which one may be chosen").add_mutually_exclusive_group()
    modes.add_argument(
        "--memory",
        type=_positive,
        nargs="?",
        const=MEMORY_WRITES,
        metavar="WRITES",
        help="resident memory after so many writes (default 1,000,000) against a tenth of them",
    )
    modes.add_argument(
        "--restart", type=_positive, metavar="N", help="start of a node with N entries after its snapshot"
    )
    modes.add_argument("--failover", type=_positive, metavar="N", help="N kills of the leader: until the next write")
    modes.add_argument(
        "--steady", type=_positive, metavar="SECONDS", help="full load for so long: elections, p99, memory"
    )
    modes.add_argument("--ratios", action="store_true", help="follower to leader, trio to asyncio, memory storage")
    given = parser.parse_args(arguments)
    mode, amount = "levels", 0
    for name in ("memory", "restart", "failover", "steady"):
        if (value := getattr(given, name)) is not None:
            mode, amount = name, value

    if given.ratios:
        mode = "ratios"

    if given.against or given.against_python:
        if mode != "levels":
            parser.error(f"--against compares levels: leave out --{mode}")

        mode = "against"

    if mode in ("restart", "failover") and given.storage == "memory":
        parser.error(f"--{mode} needs a storage that outlives the process: leave out --storage memory")

    for folder in (given.data_dir, *[file and file.parent for file in (given.json, given.plot, given.profile)]):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    return Options(
        mode=mode,
        amount=amount,
        levels=given.in_flight,
        seconds=given.seconds or (SLICE if mode == "against" else SECONDS),
        rounds=given.rounds,
        at=given.at,
        loop=given.loop,
        storage=given.storage,
        consensus=given.consensus,
        transport=given.transport,
        pysyncobj=not given.no_pysyncobj,
        batch_seconds=given.pysyncobj_batch,
        json=given.json,
        plot=given.plot,
        plotting=not given.no_plot,
        data_dir=given.data_dir and given.data_dir.resolve(),
        profile=given.profile and given.profile.resolve(),
        profiler=given.profiler,
        against=given.against,
        against_python=given.against_python,
    )


def _joined(levels: Sequence[int]) -> str:
    return ",".join(map(str, levels))


def _levels(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _picture(text: str) -> Path:
    file = Path(text)
    if file.suffix not in {".png", ".svg"}:
        raise argparse.ArgumentTypeError(f"must end in .png or .svg, and this is {text}")

    return file


def _tree(text: str) -> Path:
    tree = Path(text).resolve()
    if not any((source / "riteraft_core").is_dir() for source in sources(tree)):
        raise argparse.ArgumentTypeError(f"must be a checkout of riteraft, and {tree} has no riteraft_core/src")

    return tree


def _interpreter(text: str) -> Path:
    file = Path(text).absolute()  # a venv's is a link, and followed it is no longer the venv's
    if not file.is_file():
        raise argparse.ArgumentTypeError(f"must be a Python interpreter, and there is no {file}")

    return file


def _positive(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")

    return number
