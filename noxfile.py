"""The project's commands; `nox -l` lists them.

Two things are kept between runs, both in ignored folders and both never changed once made, so that runs beside one
another cannot disturb each other: the native wheel (`.wheels/<hash of its sources>/`) and one environment for each
session (`.nox/<session>-<python>-<hash of all that is installed in it>/`). A run whose hashes are there already
starts at once. Environments are made here and not by nox, because nox makes them without a lock.

What is installed is pinned, with hashes, in `locks/`: `sessions.txt` for all that is installed here, `lowest.txt` for
the oldest versions that users may have, `nox.txt` for nox itself. `nox -s lock` writes all three.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import nox
import nox.command
import nox.project

if sys.version_info < (3, 10):  # noqa: UP036 - reached by whoever brings a nox of an old Python
    sys.exit(
        f"riteraft needs Python 3.10 or newer, and this is Python {platform.python_version()} ({sys.executable}): "
        "make .venv again with a newer one, for example `rm -r .venv && python3.12 -m venv .venv`."
    )

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "riteraft_raftrs"
PURE = (
    HERE / "riteraft_core",
    HERE / "riteraft_transport_tcp",
    HERE / "riteraft_transport_grpc",
    HERE / "riteraft_storage_sqlite",
)
EXTRAS = "certs,cli,grpc,sqlite,tcp"
RRAFT = HERE / "riteraft_consensus_rraft"
RRAFT_PYTHONS = ("3.12", "3.11", "3.10")
"""The Pythons that rraft-py can be built for."""
WHEELS = HERE / ".wheels"
ENVIRONMENTS = HERE / ".nox"
DIST = HERE / "dist"
SESSIONS_LOCK = HERE / "locks" / "sessions.txt"
LOWEST_LOCK = HERE / "locks" / "lowest.txt"
NOX_LOCK = HERE / "locks" / "nox.txt"

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

# What the sessions install beside the project itself: the one place that says so; which version of it, and of what it
# asks for, stands in `locks/`. A formatter's next minor version may format differently, hence `~=` for ruff.
NOX = ["nox>=2025.5.1"]
WEB = ["aiohttp>=3.11"]
TEST = [
    *WEB,
    "grpcio-tools>=1.76,<1.84",
    "hypothesis>=6.120",
    "psutil>=6.1",
    "pytest>=8.3.4",
    "pytest-timeout>=2.3",
    "trio>=0.32",
    "uvloop>=0.21",
]
LINT = ["ruff~=0.17.6"]
# mypy checks as for Python 3.10, so the backports that are installed only there must be here too.
TYPES = [
    *("exceptiongroup>=1.2", "tomli>=2.0"),
    *("mypy>=2.4", *NOX),
    *("msgpack-types>=0.5", "types-grpcio>=1.76", "types-protobuf>=6.31", "types-psutil>=6.1"),
]
BUILD = ["build>=1.2.2", "hatchling>=1.27", "twine>=6.1"]
BENCHMARK = ["matplotlib>=3.9", "pysyncobj==0.3.17", "trio>=0.32", "uvloop>=0.21"]
AUDIT = ["pip-audit>=2.8"]
LOCKING = ["uv"]  # any version: what is locked must do for locking the next
# What pip asks for by itself, beside each pyproject.toml's `requires`: hatchling's editable wheels, pysyncobj's build.
BACKENDS = ["editables~=0.3", "setuptools>=77"]

FAULTS = "tests/faults"
"""Needs root, a C compiler and some minutes: a session of its own."""
LOWEST_PYTHONS = PYTHONS[:-1]
"""Not the newest: some of the oldest versions are older than it is, and have nothing for it."""
LOWEST = ["tests/core", "tests/storage", "tests/transport", "tests/examples"]
"""What calls the libraries that a user may have an older version of."""
TEST_SECONDS = 180
"""One test may take this long; the longest ones kill and restart whole clusters."""
CTRL_C_SECONDS = 20.0
"""After Ctrl-C a session's program has this long to end its nodes; nox's own default of 0.3 s would orphan them."""
WHEELS_KEPT = 4
"""Switching between branches should find its wheels again."""

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

nox.needs_version = ">=2024.3.2"
nox.options.sessions = ["check"]


# --- sessions --------------------------------------------------------------------------------------------------------


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """Three node processes, kills and restarts, told as it goes: nothing acknowledged is lost."""
    python = project_environment(session, "demo", WEB)
    run(session, python, HERE / "examples" / "demo.py", *session.posargs)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """The whole test suite on this Python; arguments after `--` go to pytest."""
    run_tests(session, project_environment(session, "tests", TEST))


@nox.session(python=False)
def faults(session: nox.Session) -> None:
    """Bad days in real processes: disks, power, clocks, descriptors, Stores; as root, for it mounts small disks."""
    python = project_environment(session, "tests", TEST)
    run(session, python, "-m", "pytest", f"--timeout={TEST_SECONDS}", *(session.posargs or [FAULTS]))


@nox.session(python=False)
def rraft(session: nox.Session) -> None:
    """Build rraft-py once, then the engine suite and kills under load on it; arguments after `--` go to pytest."""
    found, why_not = first_python(sorted(RRAFT_PYTHONS, key=lambda version: version != THIS_PYTHON))

    if found is None:
        session.warn(
            f"rraft-py can be built for Python {', '.join(RRAFT_PYTHONS)} only, and none of these runs here "
            f"({why_not}): the default engine, raft-rs, serves"
        )
        return

    version, interpreter = found
    wheel = rraft_wheel(session, version, interpreter)
    python = project_environment(session, "rraft", TEST, version, interpreter)
    chosen = session.posargs or ["tests/consensus", "tests/cluster/test_kills.py", "--consensus", "rraft"]
    run(session, python, "-m", "pytest", f"--timeout={TEST_SECONDS}", *chosen)
    session.log(f"to use it elsewhere on Python {version}: pip install {wheel} {RRAFT}, beside riteraft-core")


@nox.session(name="tests-all", python=False)
def tests_all(session: nox.Session) -> None:
    """The whole test suite on every Python from 3.10 to 3.14 that runs here, one after another."""
    results = {}
    interpreters = {version: find_python(version) for version in PYTHONS}

    for version, (interpreter, why_not) in interpreters.items():
        if interpreter is None:
            results[version] = f"LEFT OUT: {why_not}"
            session.log(f"Python {version} is left out: {why_not}")

    for version, (interpreter, _) in interpreters.items():
        if interpreter is None:
            continue

        session.log(f"Python {version}: {interpreter}")
        started = time.monotonic()

        try:
            run_tests(session, project_environment(session, "tests", TEST, version, interpreter))
            outcome = "passed"
        except nox.command.CommandFailed:
            outcome = "FAILED"

        results[version] = f"{outcome} in {time.monotonic() - started:.0f} s ({interpreter})"

    session.log("The suite on each Python:")

    for version in PYTHONS:
        session.log(f"  {version}  {results[version]}")

    if not any(result.startswith("passed") for result in results.values()) or any(
        result.startswith("FAILED") for result in results.values()
    ):
        session.error("the suite did not pass on every Python that runs here")


@nox.session(python=False)
def lowest(session: nox.Session) -> None:
    """Core, plugins and examples with the oldest versions that users may have, on the oldest Python that runs here."""
    found, why_not = first_python(LOWEST_PYTHONS)

    if found is None:
        session.error(
            f"the oldest versions can be installed for Python {', '.join(LOWEST_PYTHONS)} only, "
            f"and none of these runs here ({why_not})"
        )

    python = project_environment(session, "lowest", TEST, *found, LOWEST_LOCK)
    run(session, python, "-m", "pytest", f"--timeout={TEST_SECONDS}", *(session.posargs or LOWEST))


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Mypy in strict mode over the packages, the tests, the examples and this file."""
    python = project_environment(session, "types", [*TEST, *TYPES])
    sources = [package / "src" for package in (*PURE, RRAFT)]
    checked = [
        *sources,
        RRAFT / "build_wheel.py",
        NATIVE / "python",
        HERE / "tests",
        HERE / "examples",
        HERE / "noxfile.py",
    ]
    run(
        session,
        python,
        "-m",
        "mypy",
        "--explicit-package-bases",  # tests/tcp/test_a.py and tests/sqlite/test_a.py are two modules
        *[path.relative_to(HERE) for path in checked if path.exists()],
        env={"MYPYPATH": os.pathsep.join(str(path) for path in [*sources, NATIVE / "python"])},
    )


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Ruff, rustfmt, clippy, and which Rust the crates need; changes nothing."""
    python = environment(session, "lint", LINT)
    run(session, python, "-m", "ruff", "check", ".")
    run(session, python, "-m", "ruff", "format", "--check", ".")
    check_rust_versions(session)
    components = cargo_components(session, "fmt", "clippy")

    if "fmt" in components:
        run_cargo(session, "fmt", "--check")

    if "clippy" in components:
        run_cargo(session, "clippy", "--locked", "--all-targets", "--", "-D", "warnings")


@nox.session(python=False)
def fix(session: nox.Session) -> None:
    """Format everything and mend what ruff can mend by itself."""
    python = environment(session, "lint", LINT)
    run(session, python, "-m", "ruff", "check", "--fix", ".")
    run(session, python, "-m", "ruff", "format", ".")

    if "fmt" in cargo_components(session, "fmt"):
        run_cargo(session, "fmt")


@nox.session(python=False)
def check(session: nox.Session) -> None:
    """Everything a change must pass: lint, types and tests; changes nothing."""
    for name in ("lint", "types", "tests"):
        session.notify(name)


@nox.session(python=False)
def minimal(session: nox.Session) -> None:
    """Run the core alone, without any plugin or extra: it imports, and a cluster on `memory` works."""
    python = environment(session, "minimal", [PURE[0].name], [PURE[0], native_wheel(session)])
    run(session, python, HERE / "tests" / "packaging" / "core_alone.py")


@nox.session(python=False)
def build(session: nox.Session) -> None:
    """Every wheel and sdist into dist/, checked, installed afresh, then from sdists; a node opened each time."""
    wheel = native_wheel(session)
    python = environment(session, "build", [*BUILD, *native_requirements()])
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    shutil.copy(wheel, DIST)
    run_maturin(session, "sdist", "--manifest-path", NATIVE / "Cargo.toml", "--out", DIST)

    for package in (*PURE, RRAFT):
        run(session, python, "-m", "build", "--no-isolation", "--outdir", DIST, package)

    distributions = sorted(DIST.glob("riteraft*"))
    run(session, python, "-m", "twine", "check", "--strict", *distributions)
    run(session, python, HERE / "tests" / "packaging" / "contents.py", DIST, *PURE, RRAFT, NATIVE)

    with tempfile.TemporaryDirectory(prefix="riteraft-build-") as scratch:
        installed = new_environment(session, Path(scratch) / "venv", sys.executable, from_wheels(DIST))
        open_a_node(session, installed, scratch)

        # From the sdists and nothing else, as whoever packages riteraft does: no index, no source tree.
        rebuilt = Path(scratch) / "rebuilt"
        sdists = DIST.glob("*.tar.gz")
        offline = ("--no-index", "--no-deps", "--disable-pip-version-check")
        into = ("--no-build-isolation", "--wheel-dir", str(rebuilt))
        run(session, python, "-m", "pip", "wheel", "-q", *offline, *into, *sdists, env=cargo_env(python))
        run(session, installed, "-m", "pip", "install", "-q", *offline, "--force-reinstall", *from_wheels(rebuilt))
        open_a_node(session, installed, scratch)

    session.log("built: " + ", ".join(path.name for path in distributions))


def from_wheels(folder: Path) -> list[str]:
    """Return what pip is to install, all in one command: it would look for what it was not given in the index.

    With the hash of each, as pip asks for once anything is pinned: what our metadata does not ask for is not installed.
    """
    wheels = {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
    del wheels[RRAFT.name]  # its dependency has no wheel: `nox -s rraft` builds that one
    return [
        f"{name}{f'[{EXTRAS}]' if name == PURE[0].name else ''} @ "
        f"{wheel.as_uri()}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        for name, wheel in wheels.items()
    ]


def open_a_node(session: nox.Session, installed: Path, elsewhere: str) -> None:
    """Open a node by name from what is installed, away from the source tree, so that nothing comes from there."""
    with session.chdir(elsewhere):
        run(session, installed, "-I", HERE / "tests" / "packaging" / "open_a_node.py")
        run(session, installed, "-m", "pip", "check")


@nox.session(python=False)
def benchmark(session: nox.Session) -> None:
    """Acknowledged writes a second, p50 and p99 of three processes, beside PySyncObj's; `-- --help` has long runs."""
    python = project_environment(session, "benchmark", BENCHMARK)
    run(session, python, "-m", "tests.benchmark", *session.posargs)


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """Bytes at random into everything that reads bytes of others; after `--`: seconds (60) and a seed."""
    python = project_environment(session, "tests", TEST)
    run(session, python, HERE / "tests" / "hostile" / "fuzz.py", *session.posargs)


@nox.session(python=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in what the project installs and in its crates; asks PyPI and RustSec."""
    audited = project_environment(session, "tests", TEST)
    python = environment(session, "audit", AUDIT)
    run(session, python, HERE / "tests" / "packaging" / "audit.py", audited, NATIVE)


@nox.session(name="lock", python=False)
def write_locks(session: nox.Session) -> None:
    """Pin what the lists and each pyproject.toml ask for; pins that still do are kept, but for `-- --upgrade`."""
    with tempfile.TemporaryDirectory(prefix="riteraft-lock-") as scratch:
        python = new_environment(session, Path(scratch) / "venv", sys.executable, LOCKING)
        heading = "# Written by `nox -s lock`, to be installed with its hashes checked. It was asked for:"

        for file, wanted in locked_for().items():
            source = Path(scratch) / "wanted.in"
            source.write_text("\n".join(wanted), "utf-8")
            # Nox's lock, the last one, has no version that the sessions' has not.
            agreeing = ("--constraint", SESSIONS_LOCK) if file == NOX_LOCK else ()
            oldest = ("--resolution", "lowest-direct") if file == LOWEST_LOCK else ()
            command = ("pip", "compile", "-q", source, *agreeing, "--output-file", file, "--no-header", "--no-annotate")
            options = ("--universal", "--python-version", PYTHONS[0], "--generate-hashes", *oldest)
            run(session, python, "-m", "uv", *command, *options, *session.posargs)
            asked = [f"{ASKED}{requirement}" for requirement in wanted]
            file.write_text("\n".join([heading, *asked, "", file.read_text("utf-8")]), "utf-8")


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    session: nox.Session, python: Path, *arguments: str | os.PathLike[str], env: dict[str, str] | None = None
) -> None:
    """Run an environment's Python in the foreground, with time to clean up after Ctrl-C."""
    scripts = python.parent
    session.run(
        str(python),
        *[os.fspath(argument) for argument in arguments],
        external=True,
        env={
            # Programs that tests start by name (`riteraft`) are those of the environment.
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(scripts.parent),
            **(env or {}),
        },
        interrupt_timeout=CTRL_C_SECONDS,
        terminate_timeout=CTRL_C_SECONDS,
    )


def run_tests(session: nox.Session, python: Path) -> None:
    """Run pytest on the whole suite but for what `faults` runs, or on what the command line names."""
    left_out = [] if any(FAULTS in argument for argument in session.posargs) else [f"--ignore={FAULTS}"]
    run(session, python, "-m", "pytest", f"--timeout={TEST_SECONDS}", *left_out, *session.posargs)


def run_cargo(session: nox.Session, *arguments: str, silent: bool = False) -> str:
    """Run cargo on the native crate, with protoc at hand and the build's own target folder; return what was silent."""
    python = build_tools(session)

    with session.chdir(NATIVE):
        return str(session.run("cargo", *arguments, external=True, silent=silent, env=cargo_env(python)))


def check_rust_versions(session: nox.Session) -> None:
    """Stop if a locked crate needs a newer Rust than ours says it does: with this machine's Rust it would build."""
    crates = json.loads(run_cargo(session, "metadata", "--locked", "--quiet", "--format-version=1", silent=True))
    needs = {f"{crate['name']} {crate['version']}": crate["rust_version"] or "0" for crate in crates["packages"]}
    ours = rust_version()
    newer = {name: version for name, version in needs.items() if natural(version)[:2] > natural(ours)}

    if newer:
        session.error(
            f"rust-version is {ours} in {NATIVE.name}/Cargo.toml, but the lock file holds "
            f"{', '.join(f'{name}, which needs {version}' for name, version in newer.items())}: "
            "`cargo update NAME --precise VERSION` to an older one, or raise rust-version"
        )


def run_maturin(session: nox.Session, *arguments: str | os.PathLike[str]) -> None:
    """Run maturin in the foreground: cargo's own progress is seen."""
    python = build_tools(session)
    session.run(
        str(python.parent / "maturin"),
        *[os.fspath(argument) for argument in arguments],
        external=True,
        env=cargo_env(python),
    )


# --- environments ----------------------------------------------------------------------------------------------------


def project_environment(
    session: nox.Session,
    name: str,
    requirements: Sequence[str],
    version: str = THIS_PYTHON,
    interpreter: str = sys.executable,
    pins: Path = SESSIONS_LOCK,
) -> Path:
    """Return the Python of an environment with the whole project, editable, and `requirements`."""
    missing = [package.name for package in PURE if not (package / "pyproject.toml").is_file()]

    if missing:
        session.error(f"this is no whole checkout: no pyproject.toml in {', '.join(missing)}")

    # Once `nox -s rraft` has built it, every session of that Python has the engine `rraft` too.
    rraft = built_rraft_wheels(version)
    extras = f"{EXTRAS},rraft" if rraft else EXTRAS
    ours = [*PURE, native_wheel(session), *([RRAFT, *rraft] if rraft else [])]
    return environment(session, name, [f"{PURE[0].name}[{extras}]", *requirements], ours, version, interpreter, pins)


def build_tools(session: nox.Session) -> Path:
    """Return the Python of an environment with what the native module's build asks for: maturin and protoc."""
    return environment(session, "native", native_requirements())


def native_requirements() -> list[str]:
    """Return what a build with maturin and protoc needs."""
    requirements: list[str] = nox.project.load_toml(NATIVE / "pyproject.toml")["build-system"]["requires"]
    return requirements


def environment(
    session: nox.Session,
    name: str,
    requirements: Sequence[str],
    ours: Sequence[Path] = (),
    version: str = THIS_PYTHON,
    interpreter: str = sys.executable,
    pins: Path = SESSIONS_LOCK,
) -> Path:
    """Return the Python of the environment with exactly this installed, making it if it is not there yet.

    It is keyed by everything that decides what pip would do, and stays locked (shared) until this process ends, so
    that nobody removes it meanwhile.
    """
    require_locks(session)
    key = short_hash(
        str(HERE),  # an environment holds absolute paths
        os.path.realpath(interpreter),
        pins.read_bytes(),
        *requirements,
        *map(str, ours),
        *[(source / "pyproject.toml").read_bytes() for source in ours if source.is_dir()],
    )
    family = f"{name}-py{version}"
    folder = ENVIRONMENTS / f"{family}-{key}"
    lock_file = ENVIRONMENTS / "locks" / folder.name

    while True:
        held = lock(session, lock_file, shared=True)

        if is_complete(folder):
            HELD_UNTIL_EXIT.append(held)
            return folder / "bin" / "python"

        held.close()

        with lock(session, lock_file):
            # Another run may have made it while this one waited for the lock.
            if not is_complete(folder):
                new_environment(session, folder, interpreter, requirements, ours, pins)
                (folder / COMPLETE).touch()

        remove_unused_environments(family)


COMPLETE = "riteraft-complete"
"""A file in an environment that is made last."""

HELD_UNTIL_EXIT: list[IO[str]] = []
"""The locks of the environments in use; the system lets go of them however this process ends."""


def is_complete(folder: Path) -> bool:
    """Say whether the environment was made to the end, and the Python it was made from is still there."""
    return (folder / COMPLETE).is_file() and (folder / "bin" / "python").exists()


def new_environment(
    session: nox.Session,
    folder: Path,
    interpreter: str,
    requirements: Sequence[str],
    ours: Sequence[Path] = (),
    pins: Path = SESSIONS_LOCK,
) -> Path:
    """Make an environment from nothing and return its Python: `ours` (folders editable), and what they ask for."""
    session.log(f"installing into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    # virtualenv comes with nox and, unlike venv, needs no ensurepip in the interpreter. The pip that came inside it is
    # pinned with it; a newer one, which it may have fetched for itself, is not.
    seeds = ("--pip=embed", "--no-setuptools", "--no-periodic-update")
    session.run(
        *(sys.executable, "-m", "virtualenv", "-q", *seeds, "-p", interpreter, str(folder)), external=True, log=False
    )
    python = folder / "bin" / "python"
    require_pip(session, python)
    pip = (str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    # It has hashes, and so pip demands one of everything that a build asks for too.
    builds = ("--build-constraint", str(SESSIONS_LOCK))
    editable = [part for path in ours for part in (("-e", str(path)) if path.is_dir() else (str(path),))]

    try:
        # Ours have no hash, so they come in a command of their own; first, since what they ask for is read from them.
        if ours:
            session.run(*pip, *builds, "--no-deps", *editable, external=True, log=False)

        pinned = ("--require-hashes", "--constraint", str(pins))
        session.run(*pip, *builds, *pinned, *requirements, external=True, log=False)
    except nox.command.CommandFailed:
        session.error(
            f"pip did not install what {pins.relative_to(HERE)} pins, and says above why. Hashes that differ: "
            "what it was sent is not what was locked, so do not use it. No pin: `nox -s lock` adds it. A version that "
            "has nothing for this Python on this machine: `nox -s lock -- --upgrade` looks for a newer one"
        )

    return python


def require_pip(session: nox.Session, python: Path) -> None:
    """Stop with one sentence if this environment's pip cannot take versions and hashes from a constraints file."""
    found = first_line(str(python), "-m", "pip", "--version").partition(" from ")[0]

    if natural(found)[:2] < [26, 1]:
        session.error(
            f"the environments need pip 26.1 or newer, and the virtualenv beside this nox brings {found}: "
            f"install both anew with `pip install -r {NOX_LOCK.relative_to(HERE)}`"
        )


ASKED = "#   "
"""Begins each line of a lock that says what the lock was made for."""


def locked_for() -> dict[Path, list[str]]:
    """Return what each lock is to be made for: the lists above, and what each pyproject.toml asks for."""
    builds: set[str] = set()
    users: set[str] = set()

    for package in (*PURE, RRAFT, NATIVE):
        settings = nox.project.load_toml(package / "pyproject.toml")
        project = settings["project"]
        builds.update(settings["build-system"]["requires"])
        users.update(project.get("dependencies", []), *project.get("optional-dependencies", {}).values())

    # Ours come from here, and rraft-py is built here, from an archive whose hash is checked.
    users = {requirement for requirement in users if not requirement.startswith(("riteraft", "rraft-py"))}
    sessions = {*users, *builds, *NOX, *TEST, *LINT, *TYPES, *BUILD, *BENCHMARK, *AUDIT, *LOCKING, *BACKENDS}
    return {SESSIONS_LOCK: sorted(sessions), LOWEST_LOCK: sorted({*users, *TEST}), NOX_LOCK: sorted(NOX)}


def require_locks(session: nox.Session) -> None:
    """Stop with one sentence if a lock was made for something else than what is asked for now."""
    for file, wanted in locked_for().items():
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        changed = {line.removeprefix(ASKED) for line in lines if line.startswith(ASKED)} ^ set(wanted)

        if changed:
            session.error(
                f"{file.relative_to(HERE)} is not made for what noxfile.py and each pyproject.toml ask for now "
                f"(changed: {' | '.join(sorted(changed))}): run `nox -s lock` and commit what it writes"
            )


def remove_unused_environments(family: str) -> None:
    """Remove this session's older environments that no running nox holds."""
    environments = sorted(
        ENVIRONMENTS.glob(f"{family}-{'[0-9a-f]' * 12}"), key=lambda folder: folder.stat().st_mtime, reverse=True
    )

    for folder in environments[1:]:
        with (ENVIRONMENTS / "locks" / folder.name).open("a") as lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue

            shutil.rmtree(folder, ignore_errors=True)


# --- the native wheel ------------------------------------------------------------------------------------------------


def native_wheel(session: nox.Session) -> Path:
    """Return the wheel of these native sources, building it if it is not there yet."""
    folder = WHEELS / native_key()

    if not folder.is_dir():
        with lock(session, WHEELS / "lock"):
            if not folder.is_dir():
                build_native_wheel(session, folder)

    (wheel,) = folder.glob("*.whl")
    return wheel


def native_key() -> str:
    """Return a hash of all that decides what the native build gives."""
    sources = [
        path
        for pattern in ("*.toml", "*.lock", "*.md", "build.rs", "src/**/*", "python/**/*")
        for path in sorted(NATIVE.glob(pattern))
        if path.is_file() and path.suffix not in {".pyc", ".so"}
    ]
    return short_hash(
        sys.platform,
        platform.machine(),
        *[part for path in sources for part in (str(path.relative_to(NATIVE)), path.read_bytes())],
    )


def build_native_wheel(session: nox.Session, folder: Path) -> None:
    """Build the native wheel beside its place, then move it there in one step."""
    require_rust(session)
    session.log("building the native module once; about a minute the first time")

    for leftover in WHEELS.glob("building-*"):  # of a build that was killed; we hold the lock
        shutil.rmtree(leftover)

    building = Path(tempfile.mkdtemp(prefix="building-", dir=WHEELS))
    run_maturin(
        session,
        *("build", "--release", "--locked", "--manifest-path", NATIVE / "Cargo.toml", "--out", building),
    )
    building.rename(folder)
    kept = sorted((path.parent for path in WHEELS.glob("*/*.whl")), key=lambda path: path.stat().st_mtime, reverse=True)

    for old in kept[WHEELS_KEPT:]:
        shutil.rmtree(old)


def built_rraft_wheels(version: str) -> list[Path]:
    """Return the wheel of rraft-py for this Python, if there is one: no more than one."""
    return sorted((WHEELS / "rraft" / rraft_key(version)).glob("*.whl"))


def rraft_key(version: str) -> str:
    """Return a hash of all that decides what the build of rraft-py gives."""
    sources = [RRAFT / "build_wheel.py", *(RRAFT / "raft_shim" / name for name in ("Cargo.toml", "src/lib.rs"))]
    return f"py{version}-{short_hash(sys.platform, platform.machine(), *[path.read_bytes() for path in sources])}"


def rraft_wheel(session: nox.Session, version: str, interpreter: str) -> Path:
    """Return the wheel of rraft-py for this Python, building it if it is not there yet."""
    home = WHEELS / "rraft"
    folder = home / rraft_key(version)

    with lock(session, home / "lock"):
        if not built_rraft_wheels(version):
            require_rust(session)
            session.log("building rraft-py once; some minutes the first time")
            tools = environment(session, "rraft-wheel", native_requirements(), (), version, interpreter)

            for leftover in home.glob("building-*"):  # of a build that was killed; we hold the lock
                shutil.rmtree(leftover)

            building = Path(tempfile.mkdtemp(prefix="building-", dir=home))
            run(session, tools, RRAFT / "build_wheel.py", building / "out", building, home / "target")
            (building / "out").rename(folder)
            shutil.rmtree(building)

    (wheel,) = built_rraft_wheels(version)
    return wheel


def require_rust(session: nox.Session) -> None:
    """Stop with one sentence if the native module cannot be built here."""
    cargo = first_line("cargo", "--version")

    if not cargo.startswith("cargo "):
        session.error(
            f"riteraft's native module is built with Rust, and cargo does not run here ({cargo}): "
            "install a Rust toolchain with rustup (see rust-lang.org, Install) or from your system's packages"
        )

    wanted = rust_version()
    found = re.match(r"cargo (\d+\.\d+)", cargo)

    if found and natural(found[1]) < natural(wanted):
        session.error(
            f"riteraft's native module needs Rust {wanted} or newer, and this is {cargo}: "
            "get a newer toolchain with `rustup update` or from your system's packages"
        )

    linker = first_line("cc", "--version")

    if linker.startswith("cc: "):
        session.error(
            f"Rust links through a C compiler, and cc does not run here ({linker}): "
            "install one (macOS: `xcode-select --install`; Linux: your system's gcc or clang package)"
        )


def rust_version() -> str:
    """Return the oldest Rust that the native module says it builds with, as `1.85`."""
    declared: str = nox.project.load_toml(NATIVE / "Cargo.toml")["package"]["rust-version"]
    return declared


def cargo_components(session: nox.Session, *names: str) -> list[str]:
    """Return which of cargo's optional subcommands are here; name the others, and in CI fail for them."""
    missing = [name for name in names if first_line("cargo", name, "--version").startswith("cargo: ")]

    if missing:
        text = f"left out: cargo {', cargo '.join(missing)} (`rustup component add rustfmt clippy` brings both)"
        if IN_CI:
            session.error(text)
        session.warn(text)

    return [name for name in names if name not in missing]


def cargo_env(tools: Path) -> dict[str, str]:
    """Return what cargo needs to know to build the native crate with these tools."""
    return {
        "PATH": f"{tools.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(tools.parent.parent),
        "PYO3_PYTHON": str(tools),
        "PROTOC": str(tools.parent / "protoc"),
        "CARGO_TARGET_DIR": str(WHEELS / "target"),
    }


# --- the machine -----------------------------------------------------------------------------------------------------


def find_python(version: str) -> tuple[str | None, str]:
    """Return an interpreter of this version that really runs here, or None and why there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = [Path(folder) / f"python{version}" for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    candidates = [
        *([Path(sys.executable)] if version == THIS_PYTHON else []),
        *on_path,
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python"), key=lambda path: natural(path.parts[-3]), reverse=True),
        *Path("/Library/Frameworks/Python.framework/Versions").glob(f"{version}/bin/python{version}"),
    ]
    failures = []

    for candidate in candidates:
        if not candidate.is_file():
            continue

        # A shim answers for a version that is not switched on; an interpreter may lack what the tests use; a
        # free-threaded one cannot load an abi3 module.
        answer = first_line(
            str(candidate),
            "-c",
            "import ctypes, sqlite3, ssl, sys, sysconfig; "
            "print(*sys.version_info[:2], sysconfig.get_config_var('Py_GIL_DISABLED') or 0, sys.executable)",
        )
        major_minor = version.replace(".", " ")

        if answer.startswith(f"{major_minor} 0 "):
            return answer.split(" ", 3)[3], ""

        failures.append(f"{candidate} does not serve ({answer})")

    return None, "; ".join(failures) or "not found"


def first_python(versions: Sequence[str]) -> tuple[tuple[str, str] | None, str]:
    """Return the first of these versions that runs here and its interpreter, or None and why none does."""
    failures = []

    for version in versions:
        interpreter, why_not = find_python(version)

        if interpreter is not None:
            return (version, interpreter), ""

        failures.append(f"Python {version}: {why_not}")

    return None, "; ".join(failures)


def natural(text: str) -> list[int]:
    """Return a version's numbers, to sort by."""
    return [int(number) for number in re.findall(r"\d+", text)]


def first_line(*command: str) -> str:
    """Return the first line a command prints, or `COMMAND: why` if it does not run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{command[0]}: {exc.strerror if isinstance(exc, OSError) else 'it hangs'}"

    if done.returncode:
        return f"{command[0]}: {(done.stderr.strip() or 'it fails').splitlines()[0]}"

    return (done.stdout.strip() or "(nothing)").splitlines()[0]


def lock(session: nox.Session, path: Path, *, shared: bool = False) -> IO[str]:
    """Return an open file that holds the lock until it is closed, saying so if that means waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = path.open("a")
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        session.log(f"another nox is at work on the same ({path.relative_to(HERE)}): waiting for it")
        fcntl.flock(held, kind)

    return held


def short_hash(*parts: str | bytes) -> str:
    """Return a hash of the parts and where they end, long enough that two never meet."""
    digest = hashlib.sha256()

    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw) + raw)

    return digest.hexdigest()[:12]
