from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RIGHT = 'storage = "memory"\ntransport = "pigeon"\nstore = "orders:OrderStore"\nbootstrap = true'
STORE = """
class OrderStore:
    def apply(self, command): return command
    def snapshot(self): return b""
    def restore(self, snapshot): pass
"""

# The command, with `open_node` replaced: what a node does is not its business, how the process ends is.
PROGRAM = """
import sys
from contextlib import asynccontextmanager
import anyio, logging
import riteraft_core
from riteraft_core.errors import *

class Node:
    async def wait_stopped(self):
        {wait}

@asynccontextmanager
async def open_node(config, store):
    logging.getLogger("riteraft").info("serving %s", config.address)
    {start}
    yield Node()

riteraft_core.open_node = open_node
from riteraft_core.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.py").write_text(STORE)
    write(tmp_path)
    return tmp_path


def write(folder: Path, text: str = RIGHT) -> None:
    (folder / "n1.toml").write_text(f'cluster = "orders"\naddress = "127.0.0.1:7001"\n{text}\n')


def install_pigeon(folder: Path) -> None:
    """A transport that any config can choose, installed beside the config."""
    (folder / "pigeon.py").write_text(
        textwrap.dedent(
            """
            from pydantic import BaseModel, ConfigDict
            from riteraft_core.hookspecs import hookimpl
            from riteraft_core.protocols import Provider

            class Options(BaseModel):
                model_config = ConfigDict(frozen=True, extra="forbid")
                birds: int = 2

            @hookimpl
            def riteraft_transports():
                return [Provider("pigeon", options=Options, open=None)]
            """
        )
    )
    info = folder / "riteraft_transport_pigeon-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: riteraft-transport-pigeon\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[riteraft]\npigeon = pigeon\n")


def environment(folder: Path, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RITERAFT_")}
    return {**clean, "PYTHONPATH": str(folder), "COLUMNS": "120", **variables}


def riteraft(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from riteraft_core.cli import main; main()", *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(
    folder: Path, *arguments: str, at_start: str = "pass", at_wait: str = "await anyio.sleep_forever()"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(start=at_start, wait=at_wait), "run", "n1.toml", *arguments],
        cwd=folder,
        env=environment(folder),
        stderr=subprocess.PIPE,
        text=True,
    )


# --- run ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "trio", "uvloop"])
def test_a_signal_ends_run_in_peace(folder: Path, loop: str, number: signal.Signals) -> None:
    pytest.importorskip(loop)
    with start(folder, "--loop", loop, "--address", "127.0.0.1:7009") as process:
        assert process.stderr is not None
        assert "INFO riteraft: serving 127.0.0.1:7009" in process.stderr.readline()
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")


def test_a_signal_ends_run_while_the_node_still_starts(folder: Path) -> None:
    with start(folder, at_start="await anyio.sleep_forever()") as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_a_node_that_stops_by_itself_ends_run_in_peace(folder: Path) -> None:
    with start(folder, at_wait="return") as process:
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [("StorageError('disk full')", 1), ("ConfigError('peers: no'), ", 2), ("PluginError('no tcp')", 2)],
)
@pytest.mark.parametrize("when", ["at_start", "at_wait"])
def test_what_ends_a_node_is_told_in_one_line_and_an_exit_code(folder: Path, when: str, error: str, code: int) -> None:
    with start(folder, **{when: f"raise {error.rstrip(', ')}"}) as process:
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert stderr.splitlines()[-1].startswith("riteraft: ")
    assert "Traceback" not in stderr


def test_a_node_from_a_config_alone(folder: Path) -> None:
    pytest.importorskip("riteraft_transport_tcp")
    pytest.importorskip("riteraft_storage_sqlite")
    (folder / "n1.toml").write_text(
        'cluster = "orders"\naddress = "127.0.0.1:0"\ndata_dir = "data"\nbootstrap = true\n'
        'store = "orders:OrderStore"\n'
        "[timing]\nelection_timeout = 0.2\n"
    )
    for _start in ("the first", "a restart"):
        with subprocess.Popen(
            [sys.executable, "-c", "from riteraft_core.cli import main; main()", "run", "n1.toml"],
            cwd=folder,
            env=environment(folder),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert any("leads in term" in line for line in process.stderr)
            process.terminate()
            _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
    assert (folder / "data").is_dir()


def test_run_with_a_wrong_config_exits_with_2(folder: Path) -> None:
    write(folder, 'tranport = "tcp"')
    result = riteraft(folder, "run", "n1.toml")
    assert result.returncode == 2
    assert result.stderr == "riteraft: n1.toml: tranport: there is no such field; did you mean transport?\n"


def test_run_without_its_file_exits_with_2(folder: Path) -> None:
    result = riteraft(folder, "run", "n2.toml")
    assert (result.returncode, result.stderr) == (2, "riteraft: n2.toml: there is no such file\n")


def test_run_with_a_wrong_store_exits_with_2(folder: Path) -> None:
    result = riteraft(folder, "run", "n1.toml", "--store", "orders:Store")
    assert result.returncode == 2
    assert "did you mean OrderStore?" in result.stderr


# --- check ---


def test_check_says_what_was_chosen(folder: Path) -> None:
    install_pigeon(folder)
    result = riteraft(folder, "check", "n1.toml")
    assert (result.returncode, result.stderr) == (0, "")
    assert "n1.toml is right" in result.stdout
    assert "transport pigeon, storage memory, consensus engine raft-rs" in result.stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('transport = "pidgeon"', 'n1.toml: transport: no transport "pidgeon"; installed: '),
        ('transport = { name = "pigeon", bird = 3 }', "n1.toml: transport.bird: there is no such field; did you mean"),
        ('transport = "pigeon"\nstorage = "memory"\nstore = "nowhere:Store"', "n1.toml: store: there is no module"),
    ],
)
def test_check_finds_what_run_would(folder: Path, text: str, complaint: str) -> None:
    install_pigeon(folder)
    write(folder, text)
    result = riteraft(folder, "check", "n1.toml")
    assert result.returncode == 2
    assert result.stderr.startswith(f"riteraft: {complaint}")
    assert "Traceback" not in result.stderr


def test_check_honours_the_environment(folder: Path) -> None:
    result = riteraft(folder, "check", "n1.toml", RITERAFT_TRANPORT="tcp")
    assert result.returncode == 2
    assert "did you mean RITERAFT_TRANSPORT?" in result.stderr


# --- plugins, version, help ---


def test_plugins_lists_what_is_installed_and_what_is_broken(folder: Path) -> None:
    install_pigeon(folder)
    result = riteraft(folder, "plugins")
    assert result.returncode == 0
    line = next(line for line in result.stdout.splitlines() if "pigeon" in line)
    assert all(word in line for word in ("transport", "riteraft-transport-pigeon", "1.2", "ok"))

    (folder / "pigeon.py").write_text("raise RuntimeError('no wings')")
    result = riteraft(folder, "plugins")
    assert result.returncode == 0
    assert "broken" in result.stdout
    assert "riteraft-transport-pigeon 1.2" in result.stdout
    assert "RuntimeError: no wings" in result.stdout


def test_version(folder: Path) -> None:
    result = riteraft(folder, "--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "riteraft-core")


def test_help_teaches_with_a_config_that_is_right(folder: Path) -> None:
    """The example in the help is loaded as it stands there."""
    text = riteraft(folder, "--help").stdout
    example = [line.strip() for line in text.splitlines() if " = " in line and "peers" not in line]
    assert len(example) == 5
    install_pigeon(folder)
    (folder / "n1.toml").write_text("\n".join(example) + '\ntransport = "pigeon"\nstorage = "memory"\n')
    result = riteraft(folder, "check", "n1.toml")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_its_extra_the_command_says_how_to_get_it(folder: Path) -> None:
    (folder / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    result = riteraft(folder, "--help")
    assert (result.returncode, result.stderr) == (
        2,
        'The riteraft command needs its extra: pip install "riteraft-core[cli]"\n',
    )


# --- certificates ----------------------------------------------------------------------------------------------------


def test_certificates_are_made_step_by_step_and_never_overwritten(tmp_path: Path) -> None:
    early = riteraft(tmp_path, "certs", "node", "n1", "--host", "127.0.0.1")
    assert (early.returncode, "riteraft certs ca" in early.stderr) == (2, True)
    for arguments in (
        ("ca", "--cluster", "orders"),
        ("node", "n1", "--host", "127.0.0.1", "--host", "n1.example"),
        ("client", "app"),
        ("admin", "ops", "--days", "7"),
    ):
        made = riteraft(tmp_path, "certs", *arguments)
        assert made.returncode == 0, made.stderr
        again = riteraft(tmp_path, "certs", *arguments)
        assert (again.returncode, "is there already" in again.stderr) == (2, True)

    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "certs").iterdir()}
    assert sorted(files) == sorted(
        f"{name}.{kind}" for name in ("ca", "node-n1", "client-app", "admin-ops") for kind in ("pem", "key")
    )
    assert {mode for name, mode in files.items() if name.endswith(".key")} == {0o600}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("node", "n1"), "--host"),
        (("node", "n1", "--host", "no host"), "no DNS name"),
        (("client", "../app"), "leave out slashes"),
        (("client", ""), "no name for a certificate"),
    ],
)
def test_a_certificate_that_makes_no_sense_is_refused(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    riteraft(tmp_path, "certs", "ca", "--cluster", "orders")
    refused = riteraft(tmp_path, "certs", *arguments)
    assert refused.returncode == 2
    assert words in refused.stderr


def test_check_looks_at_the_certificates(folder: Path) -> None:
    riteraft(folder, "certs", "ca", "--cluster", "orders")
    riteraft(folder, "certs", "node", "n1", "--host", "127.0.0.1")
    table = '[security]\nca = "certs/ca.pem"\ncertificate = "certs/node-n1.pem"\nkey = "certs/node-n1.key"\n'
    write(folder, 'storage = "memory"\ntransport = "tcp"\nbootstrap = true\nstore = "orders:OrderStore"\n' + table)
    right = riteraft(folder, "check", "n1.toml")
    assert right.returncode == 0, right.stderr
    (folder / "certs" / "node-n1.key").chmod(0o644)
    wrong = riteraft(folder, "check", "n1.toml")
    assert (wrong.returncode, "security.key" in wrong.stderr) == (2, True)


def test_what_is_shown_to_a_cluster_is_checked_first(tmp_path: Path) -> None:
    half = riteraft(tmp_path, "status", "127.0.0.1:1", "--ca", "ca.pem")
    assert (half.returncode, "certificate and key missing" in half.stderr) == (2, True)
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("0123456789abcdef" * 8)
    weak = riteraft(tmp_path, "remove", "127.0.0.1:1", "2", "--secret-file", "secret", "--cluster", "orders")
    assert (weak.returncode, "openssl rand" in weak.stderr) == (2, True)
