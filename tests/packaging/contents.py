"""Looks into every wheel and sdist of a folder: what must be in it is, what must not be is not, the versions agree.

Run as `contents.py DIST FOLDER…`, where each FOLDER is the source of one distribution.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

JUNK = re.compile(
    r"(^|/)(__pycache__|tests?|target|dist|build)(/|$)"
    r"|(^|/)\.(?!gitignore$)[^/]*(/|$)"  # hatchling takes .gitignore along into each sdist
    r"|(^|/)(test_[^/]*|conftest)\.py$"
    r"|\.(pyc|db)$"
)
"""Neither tests nor leftovers; `testing/` is for plugin authors and belongs in."""
WANTED_IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "PKG-INFO")


class Distribution:
    """One file in the folder: its members, without the sdist's own top folder, and its metadata."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.members: dict[str, bytes] = {}
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                self.members = {name: wheel.read(name) for name in wheel.namelist()}

            metadata = next(name for name in self.members if name.endswith(".dist-info/METADATA"))
        else:
            with tarfile.open(file) as sdist:
                for member in sdist.getmembers():
                    if (content := sdist.extractfile(member)) is not None:
                        self.members[member.name.partition("/")[2]] = content.read()

            metadata = "PKG-INFO"

        self.metadata: Message = Parser().parsestr(self.members[metadata].decode())
        self.name = self.metadata["Name"]
        self.version = self.metadata["Version"]

    def wrong(self, source: Path, versions: dict[str, str]) -> Iterator[str]:
        """Yield what is wrong with it, a sentence each."""
        package = source.name
        yield from self._wrong_metadata(versions)
        for name in self.members:
            if JUNK.search(name):
                yield f"{name} should not be in it"

        if self.file.suffix == ".whl":
            licences = [name for name in self.members if re.search(r"\.dist-info/licenses/LICENSE$", name)]
            if not licences:
                yield "no LICENSE"

            if f"{package}/py.typed" not in self.members:
                yield f"no {package}/py.typed"

            elsewhere = {PurePosixPath(name).parts[0] for name in self.members} - {package}
            if any(not name.endswith((".dist-info", ".libs")) for name in elsewhere):
                yield f"installs into {', '.join(sorted(elsewhere))}"

            sources = next(path for path in (source / "src" / package, source / "python" / package) if path.is_dir())
            root, under = sources.parent, sources
        else:
            for name in WANTED_IN_SDIST:
                if name not in self.members:
                    yield f"no {name}"

            root = under = source

        for path in sorted(under.rglob("*.py*")):
            name = path.relative_to(root).as_posix()
            if path.suffix == ".pyc" or JUNK.search(name):
                continue

            if self.members.get(name) != path.read_bytes():
                yield f"{name} is missing or another than in {source.name}/"

    def _wrong_metadata(self, versions: dict[str, str]) -> Iterator[str]:
        metadata = self.metadata
        if metadata["License-Expression"] != "Apache-2.0":
            yield f"its licence is {metadata['License-Expression']!r}"

        if metadata["Requires-Python"] != ">=3.10":
            yield f"it requires Python {metadata['Requires-Python']!r}"

        if not str(metadata.get_payload()).strip():
            yield "it has no description"

        for requirement in metadata.get_all("Requires-Dist", []):
            found = re.match(r"(riteraft[\w-]*)(\[[^]]*])?\s*(==\s*([\w.]+))?", requirement)
            if found is None:
                continue

            name, pinned = found[1], found[4]
            if pinned is None:
                yield f"{requirement!r} does not say which version"
            elif versions.get(name, pinned) != pinned:
                yield f"{requirement!r}, but {name} is {versions[name]}"


def main(folder: Path, sources: list[Path]) -> int:
    found = [Distribution(file) for pattern in ("*.whl", "*.tar.gz") for file in sorted(folder.glob(pattern))]
    versions = {distribution.name: distribution.version for distribution in found}
    complaints = []
    for source in sources:
        suffixes = [d.file.suffix for d in found if d.name.replace("-", "_") == source.name]
        if sorted(suffixes) != [".gz", ".whl"]:
            complaints.append(f"{source.name} should have one wheel and one sdist: there are {suffixes}")

    for distribution in found:
        if versions[distribution.name] != distribution.version:
            complaints.append(f"{distribution.file.name}: another version of it is {versions[distribution.name]}")

        source = next(path for path in sources if path.name == distribution.name.replace("-", "_"))
        complaints += [f"{distribution.file.name}: {what}" for what in distribution.wrong(source, versions)]

    for complaint in complaints:
        print(complaint, file=sys.stderr)  # noqa: T201

    if not complaints:
        print(f"{len(found)} wheels and sdists hold what they should, and nothing else")  # noqa: T201

    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]))
