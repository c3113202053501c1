"""What a user gets wrong, as a user sees it: exit code 2 and lines that say where, which field and what would do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("riteraft_transport_tcp")
pytest.importorskip("riteraft_storage_sqlite")

RIGHT = {
    "cluster": '"orders"',
    "address": '"127.0.0.1:0"',
    "data_dir": '"data"',
    "bootstrap": "true",
    "store": '"orders:OrderStore"',
}
STORES = """
class OrderStore:
    def apply(self, command): return command
    def snapshot(self): return b""
    def restore(self, snapshot): pass
class Half:
    def apply(self, command): return command
class Fails(OrderStore):
    def __init__(self): raise RuntimeError("no warehouse")
"""

MISTAKES: dict[str, tuple[str, dict[str, str | None], dict[str, str], list[str]]] = {
    # name: (command, changed fields, variables, what the text must hold, the first at its beginning)
    "no TOML": ("check", {"bootstrap": "yes please"}, {}, ["n1.toml: not a TOML file: ", "line 4"]),
    "wrong types": (
        "check",
        {"cluster": "5", "address": "7001", "bootstrap": '"maybe"', "data_dir": "3", "peers": "5", "timing": '"fast"'},
        {},
        [
            "n1.toml: cluster: must be a text, in quotes; it is 5",
            "n1.toml: address: must be a text, in quotes; it is 7001",
            "n1.toml: bootstrap: must be true or false; it is 'maybe'",
            "n1.toml: data_dir: must be a path, in quotes; it is 3",
            "n1.toml: peers: must be a list, in brackets; it is 5",
            "n1.toml: timing: must be a table of fields; it is 'fast'",
        ],
    ),
    "out of bounds": (
        "check",
        {
            "timing": "{ election_timeout = 0 }",
            "snapshot": "{ bytes = 0, entries = 1.5 }",
            "limits": "{ max_command_bytes = 9_000_000 }",
            "cluster": '""',
        },
        {},
        [
            "n1.toml: cluster: must not be empty",
            "n1.toml: timing.election_timeout: must be greater than or equal to 0.05; it is 0",
            "n1.toml: snapshot.bytes: must be greater than or equal to 1; it is 0",
            "n1.toml: snapshot.entries: must be a whole number; it is 1.5",
            "n1.toml: limits.max_command_bytes: must be less than or equal to 8388608",
        ],
    ),
    "a misspelt field in a table": (
        "check",
        {"snapshot": "{ tail_byte = 1 }"},
        {},
        ["n1.toml: snapshot.tail_byte: there is no such field; did you mean tail_bytes?"],
    ),
    "a plugin that is not installed": (
        "check",
        {"transport": '"pigeon"'},
        {},
        ['n1.toml: transport: no transport "pigeon"; installed: ', "memory, tcp"],
    ),
    "an option out of bounds": (
        "run",
        {"transport": "{ max_frame = 1 }"},
        {},
        ["n1.toml: transport.max_frame: must be greater than or equal to 4096; it is 1"],
    ),
    "variables": (
        "check",
        {},
        {"RITERAFT_SNAPSHOT__BYTE": "5", "RITERAFT_TIMING__ELECTION_TIMEOUT": "fast", "RITERAFT_LIMITS": '{"a": 1'},
        [
            "RITERAFT_TIMING__ELECTION_TIMEOUT: timing.election_timeout: must be a number; it is 'fast'",
            "RITERAFT_LIMITS: limits: must be a table of fields",
            "RITERAFT_SNAPSHOT__BYTE: snapshot.byte: there is no such field; did you mean RITERAFT_SNAPSHOT__BYTES?",
        ],
    ),
    "no Store": (
        "run",
        {"store": None},
        {},
        ['n1.toml: store: is needed; for example store = "orders:OrderStore" (module:attribute)'],
    ),
    "a Store's module that does not import": (
        "check",
        {"store": '"broken:OrderStore"'},
        {},
        ["n1.toml: store: importing broken failed: No module named 'warehouse_of_nobody'"],
    ),
    "a Store that cannot be made": (
        "run",
        {"store": '"orders:Fails"'},
        {},
        ["n1.toml: store: orders:Fails() failed: RuntimeError: no warehouse"],
    ),
    "a sqlite without a folder": (
        "run",
        {"data_dir": None},
        {},
        ["n1.toml: data_dir: is needed, for the sqlite log storage keeps files"],
    ),
    "a folder that is a file": ("run", {"data_dir": '"orders.py"'}, {}, ["n1.toml: data_dir: ", "is a file"]),
    "neither bootstrap nor peers": ("run", {"bootstrap": None}, {}, ["n1.toml: peers: ", "`bootstrap = true`"]),
    "neither bootstrap nor peers, checked": ("check", {"bootstrap": None}, {}, ["n1.toml: peers: ", "`peers` to the"]),
    "a wildcard that others cannot dial": (
        "check",
        {"address": '"0.0.0.0:7001"'},
        {},
        ["n1.toml: advertise: is needed", 'for example advertise = "10.0.0.1:7001"'],
    ),
    "an open port without saying so": (
        "run",
        {"address": '"0.0.0.0:7001"', "advertise": '"10.0.0.1:7001"'},
        {},
        ["n1.toml: address: 0.0.0.0:7001 can be reached from other machines", "insecure = true"],
    ),
    "no such port": ("check", {"address": '"127.0.0.1:99999"'}, {}, ["n1.toml: address: ", "from 0 to 65535"]),
    "a taken port": (
        "run",
        {"address": '"127.0.0.1:{taken}"'},
        {},
        ["n1.toml: address: cannot listen on 127.0.0.1:{taken}", "stop it, or choose another port"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.py").write_text(STORES)
    (tmp_path / "broken.py").write_text("import warehouse_of_nobody\n")
    return tmp_path


def riteraft(folder: Path, command: str, *arguments: str, **variables: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RITERAFT_")}
    result = subprocess.run(
        [Path(sys.executable).with_name("riteraft"), command, "n1.toml", *arguments],
        cwd=folder,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stderr


def write(folder: Path, changes: Mapping[str, str | None]) -> None:
    fields = {name: value for name, value in {**RIGHT, **changes}.items() if value is not None}
    (folder / "n1.toml").write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_its_field_and_its_cure(folder: Path, name: str) -> None:
    command, changes, variables, wanted = MISTAKES[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        write(folder, {field: value and value.replace("{taken}", port) for field, value in changes.items()})
        code, stderr = riteraft(folder, command, **variables)

    assert code == 2, stderr
    assert stderr.startswith("riteraft: " + wanted[0].replace("{taken}", port))
    assert [text for text in wanted if text.replace("{taken}", port) not in stderr] == []
    assert "Traceback" not in stderr
    assert "pydantic" not in stderr


def test_an_option_of_the_command_is_named_without_the_file(folder: Path) -> None:
    write(folder, {})
    code, stderr = riteraft(folder, "run", "--address", "nowhere")
    assert (code, stderr) == (2, "riteraft: address: 'nowhere' has no port; write \"nowhere:7001\"\n")
