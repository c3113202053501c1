"""Build a wheel of rraft-py 0.2.27, whose own build fails today: `python build_wheel.py OUT WORK TARGET`.

It asks for two things that cannot be had: a fork of raft on GitHub, and `time` 0.3.20, that rustc 1.80 and later do
not compile. From package registries alone, and with its sources as they are: a Cargo `[patch]` puts the crate in
`raft_shim/` in the fork's place, and the lock file gets a later `time`.

`nox -s rraft` runs this with the Python that the wheel is for, in an environment that holds maturin and protoc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.2.27"
SHA256 = "df77d268a95d366449017d7ab2109c3720ed8486c3434b025252ca03553b2685"
FORK = "https://github.com/jopemachine/raft-rs.git"
TIME = "0.3.36"

NEWEST_PYTHON = (3, 12)
"""rraft-py is built on PyO3 0.20, that knows no later one."""

SHIM = Path(__file__).resolve().parent / "raft_shim"


def build(out: Path, work: Path, target: Path) -> None:
    """Leave the wheel in `out`; `work` is an empty folder, `target` is cargo's and worth keeping."""
    scripts = Path(sys.executable).parent
    scratch = work / "tmp"
    scratch.mkdir()
    (work / ".cargo").mkdir()
    # Cargo looks for it in each folder above the one it works in: pip's temporary copy and ours.
    (work / ".cargo" / "config.toml").write_text(
        f'[patch."{FORK}"]\nraft = {{ path = "{SHIM.as_posix()}" }}\n', encoding="utf-8"
    )
    (work / "requirements.txt").write_text(f"rraft-py=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)]),
        "PROTOC": str(scripts / "protoc"),
        "CARGO_TARGET_DIR": str(target),
        "RUSTFLAGS": "--cap-lints=allow",  # the warnings of somebody else's crate
        "TMPDIR": str(scratch),
    }

    def run(*command: str, cwd: Path = work) -> None:
        print("$", *command, flush=True)
        subprocess.run(command, cwd=cwd, env=env, check=True)

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    # pip asks the package for its metadata before it keeps the archive, and the answer comes from cargo.
    run(*pip, "download", "--no-build-isolation", "--no-deps", "--no-binary=:all:", "-r", "requirements.txt")
    with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
        archive.extractall(work)  # noqa: S202 - its hash was checked

    (source,) = (path.parent for path in work.glob("*/Cargo.toml"))
    run("cargo", "update", "-p", "time", "--precise", TIME, cwd=source)
    run("maturin", "build", "--release", "--interpreter", sys.executable, "--out", str(out), cwd=source)


if __name__ == "__main__":
    build(*(Path(argument).resolve() for argument in sys.argv[1:]))
