from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from riteraft_core._plugins import CONSENSUS, STORAGE, TRANSPORT, Kind, Origin, Plugins
from riteraft_core.config import Config, Limits, PluginChoice, Timing, resolve
from riteraft_core.errors import ConfigError, PluginError
from riteraft_core.protocols import EngineLimits, EngineTiming, Provider

WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("RITERAFT_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def write(tmp_path: Path) -> WriteConfig:
    """Write n1.toml: a cluster, an address, and what the test adds."""

    def write(text: str = "") -> Path:
        path = tmp_path / "n1.toml"
        path.write_text('cluster = "orders"\naddress = "127.0.0.1:7001"\n' + textwrap.dedent(text))
        return path

    return write


class Hub:
    """Stands for an object that only code can make, as a MemoryNetwork is."""


class WireOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    verbose: bool = False
    hub: Hub | None = None


def open_nothing(options: object, context: object) -> None:
    raise NotImplementedError


def wire_plugins() -> Plugins:
    provider = Provider("tcp", options=WireOptions, open=open_nothing)  # type: ignore[arg-type, var-annotated]
    return Plugins([(TRANSPORT, provider, Origin("riteraft-wire", "1.0", "tcp"))])


def complaint(path: Path, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.load(path, **overrides)
    text = str(caught.value)
    assert "pydantic" not in text
    return text


# --- the whole of it ---


def test_the_config_of_the_design(write: WriteConfig, tmp_path: Path) -> None:
    config = Config.load(
        write(
            """
            data_dir = "data/n1"
            bootstrap = true
            peers = ["127.0.0.1:7002", "[::1]:7003", "n4.example:7004"]
            store = "orders:OrderStore"
            transport = "tcp"
            consensus = "raft-rs"
            [storage]
            name = "sqlite"
            [timing]
            election_timeout = 2.0
            [limits]
            max_command_bytes = 1_000
            max_proposals_in_flight = 10
            [snapshot]
            entries = 100
            bytes = 1_000_000
            tail = 50
            tail_bytes = 0
            """
        )
    )

    assert config.cluster == "orders"
    assert config.address == "127.0.0.1:7001"
    assert config.data_dir == tmp_path / "data" / "n1"
    assert config.bootstrap
    assert config.peers == ("127.0.0.1:7002", "[::1]:7003", "n4.example:7004")
    assert config.transport == PluginChoice("tcp")
    assert config.storage == PluginChoice("sqlite")
    assert config.timing.tick == pytest.approx(0.1)
    assert config.limits.max_proposals_in_flight == 10
    assert (config.snapshot.entries, config.snapshot.tail) == (100, 50)
    assert (config.snapshot.bytes, config.snapshot.tail_bytes) == (1_000_000, 0)


def test_two_fields_are_enough() -> None:
    config = Config(cluster="orders", address="127.0.0.1:0")

    assert [config.transport.name, config.storage.name, config.consensus.name] == ["tcp", "sqlite", "raft-rs"]
    assert config.timing.engine == EngineTiming()
    assert config.limits.engine == EngineLimits()
    assert (config.data_dir, config.seed, config.bootstrap, config.peers) == (None, None, False, ())


def test_a_config_never_changes() -> None:
    config = Config(cluster="orders", address="127.0.0.1:0")
    with pytest.raises(ValueError, match="frozen"):
        config.cluster = "bills"


def test_equal_values_are_equal_configs_wherever_they_came_from(write: WriteConfig) -> None:
    assert Config.load(write()) == Config(cluster="orders", address="127.0.0.1:7001")


def test_the_engine_is_told_timing_and_limits() -> None:
    config = Config(
        cluster="c", address="127.0.0.1:0", timing=Timing(election_timeout=0.4), limits={"max_bytes_in_flight": 2**21}
    )
    assert config.timing.tick == pytest.approx(0.02)
    assert config.limits.engine.max_uncommitted_size == 2**21


# --- precedence ---


def test_keyword_beats_environment_beats_file_beats_default(
    write: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('seed = 1\nadvertise = "file:1"\ndata_dir = "file"')
    monkeypatch.setenv("RITERAFT_ADVERTISE", "variable:1")
    monkeypatch.setenv("RITERAFT_DATA_DIR", "variable")
    config = Config.load(path, data_dir="keyword")

    assert config.seed == 1
    assert config.advertise == "variable:1"
    assert config.data_dir == Path("keyword")
    assert config.bootstrap is False


def test_the_environment_counts_without_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_CLUSTER", "orders")
    assert Config(address="127.0.0.1:0").cluster == "orders"


def test_tables_are_merged_field_by_field(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("[limits]\nmax_command_bytes = 100\nmax_proposals_in_flight = 5")
    monkeypatch.setenv("RITERAFT_LIMITS__MAX_PROPOSALS_IN_FLIGHT", "6")
    limits = Config.load(path, limits={"max_bytes_in_flight": 1000}).limits

    assert limits == Limits(max_command_bytes=100, max_proposals_in_flight=6, max_bytes_in_flight=1000)


def test_data_dir_is_relative_to_the_file(write: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write('data_dir = "data"')
    monkeypatch.chdir(tmp_path.parent)
    relative = Path(tmp_path.name) / "n1.toml"
    assert Config.load(relative).data_dir == tmp_path / "data"
    # ... and stays where it is when the program changes its folder
    assert (Config.load(relative).data_dir or Path()).is_absolute()


# --- traps of pydantic-settings ---


def test_trap_a_missing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert complaint(path, cluster="c", address="127.0.0.1:0") == f"{path}: there is no such file"


def test_trap_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert "cannot be read" in complaint(tmp_path)


@pytest.mark.parametrize("content", [b"cluster =", b'cluster = "\xff"'])
def test_trap_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n1.toml"
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path}: not a TOML file")


def test_trap_a_misspelt_variable_is_an_error(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANPORT", "tcp")
    text = complaint(write())
    assert text.startswith("RITERAFT_TRANPORT: ")
    assert "did you mean RITERAFT_TRANSPORT?" in text


def test_trap_a_misspelt_nested_variable_is_an_error(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TIMING__ELECTION_TIMOUT", "1")
    text = complaint(write())
    assert text.startswith("RITERAFT_TIMING__ELECTION_TIMOUT: timing.election_timout: ")
    assert "did you mean RITERAFT_TIMING__ELECTION_TIMEOUT?" in text


def test_trap_a_plugin_name_in_a_variable(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT", "grpc")
    assert Config.load(write('transport = "tcp"')).transport == PluginChoice("grpc")


def test_trap_an_option_in_a_variable_keeps_the_name_of_the_short_form(
    write: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT__VERBOSE", "true")
    config = Config.load(write('transport = "tcp"'))

    assert config.transport == PluginChoice("tcp", {"verbose": "true"})
    assert config.resolve(TRANSPORT, wire_plugins())[1] == WireOptions(verbose=True)


def test_trap_name_and_option_in_two_variables(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT__VERBOSE", "true")
    monkeypatch.setenv("RITERAFT_TRANSPORT", "grpc")
    assert Config.load(write()).transport == PluginChoice("grpc", {"verbose": "true"})


def test_an_option_alone_belongs_to_the_default_plugin(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT__VERBOSE", "true")
    assert Config.load(write()).transport == PluginChoice("tcp", {"verbose": "true"})


def test_options_do_not_follow_to_another_plugin(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[transport]\nname = "tcp"\nverbose = true')
    monkeypatch.setenv("RITERAFT_TRANSPORT", "grpc")
    assert Config.load(path).transport == PluginChoice("grpc")
    assert Config.load(path, transport="tcp").transport == PluginChoice("tcp", {"verbose": True})


def test_peers_in_a_variable(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('peers = ["a:1"]')
    for text, peers in {
        "[::1]:7001, b:2": ("[::1]:7001", "b:2"),
        '["b:2", "c:3"]': ("b:2", "c:3"),
        "": (),
    }.items():
        monkeypatch.setenv("RITERAFT_PEERS", text)
        assert Config.load(path).peers == peers


def test_a_table_in_a_variable_is_json(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT", '{"name": "grpc", "lanes": [1, 2]}')
    assert Config.load(write()).transport == PluginChoice("grpc", {"lanes": [1, 2]})


# --- errors name the place, the field and the cure ---


def test_a_misspelt_field(write: WriteConfig) -> None:
    path = write('tranport = "tcp"')
    assert complaint(path) == f"{path}: tranport: there is no such field; did you mean transport?"


def test_a_field_without_a_near_one_lists_what_there_is(write: WriteConfig) -> None:
    text = complaint(write("[limits]\nxyz = 1"))
    assert "limits.xyz: there is no such field; known here: max_bytes_in_flight, max_command_bytes" in text


def test_what_is_missing_comes_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "n1.toml"
    path.write_text('cluster = "c"')
    assert complaint(path) == f'{path}: address: is needed and missing; for example address = "127.0.0.1:7001"'


def test_every_error_has_its_own_line_and_place(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_SEED", "-1")
    path = write('[timing]\nelection_timeout = 0.001\n[snapshot]\nentries = "many"')
    lines = sorted(complaint(path, peers=["nowhere"]).splitlines())

    assert len(lines) == 4
    assert lines[0].startswith(f"{path}: snapshot.entries: ")
    assert lines[1].startswith(f"{path}: timing.election_timeout: ")
    assert "0.001" in lines[1]
    assert lines[2].startswith("RITERAFT_SEED: seed: ")
    assert lines[3].startswith("peers: ")  # from code: there is no place to name


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('transport = ""', "transport"),
        ("transport = 3", "transport"),
        ("transport = { name = 3 }", "transport"),
        ('store = "orders"', "store"),
        ('peers = ["127.0.0.1:0"]', "peers"),
        ('advertise = "0.0.0.0:7001"', "advertise"),
        ('advertise = "n1.example:0"', "advertise"),
        ("timing = 3", "timing"),
        ("timing = { election_timeout = inf }", "timing.election_timeout"),
        ("timing = { election_timeout = nan }", "timing.election_timeout"),
        ("limits = { max_bytes_in_flight = 10 }", "limits"),
        ("snapshot = { entries = 0 }", "snapshot.entries"),
        ("snapshot = { bytes = 0 }", "snapshot.bytes"),
        ("snapshot = { tail_bytes = -1 }", "snapshot.tail_bytes"),
    ],
)
def test_wrong_values_are_refused(write: WriteConfig, text: str, field: str) -> None:
    path = write(text)
    assert complaint(path).startswith(f"{path}: {field}: ")


def test_an_address_that_is_none(write: WriteConfig) -> None:
    assert complaint(write(), address="localhost").startswith("address: ")


@pytest.mark.parametrize("everywhere", ["0.0.0.0:7001", "[::]:7001"])
def test_who_listens_everywhere_must_say_where_he_is_reached(write: WriteConfig, everywhere: str) -> None:
    assert f"advertise: is needed, for address {everywhere}" in complaint(write(), address=everywhere)
    assert Config.load(write(), address=everywhere, advertise="10.0.0.1:7001").address == everywhere


def test_an_error_found_later_names_its_place_too(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    assert str(Config.load(path).wrong("store", "is needed")) == f"{path}: store: is needed"
    monkeypatch.setenv("RITERAFT_STORE", "a:b")
    assert str(Config.load(path).wrong("store", "is no good")) == "RITERAFT_STORE: store: is no good"


# --- the second step: a plugin's own options ---


def test_options_are_checked_by_the_plugin(write: WriteConfig) -> None:
    config = Config.load(write("[transport]\nname = 'tcp'\nverbose = true"))
    provider, options = config.resolve(TRANSPORT, wire_plugins())
    assert provider.name == "tcp"
    assert options == WireOptions(verbose=True)


def test_an_unknown_option_has_its_path_in_front(write: WriteConfig) -> None:
    path = write("[transport]\nname = 'tcp'\nverbos = true\nlanes = 3")
    with pytest.raises(ConfigError) as caught:
        Config.load(path).resolve(TRANSPORT, wire_plugins())
    assert str(caught.value).splitlines() == [
        f"{path}: transport.verbos: there is no such field; did you mean verbose?",
        f"{path}: transport.lanes: there is no such field; known here: hub, verbose",
    ]


def test_a_wrong_option_from_a_variable_names_the_variable(write: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RITERAFT_TRANSPORT__VERBOSE", "perhaps")
    with pytest.raises(ConfigError, match=r"^RITERAFT_TRANSPORT__VERBOSE: transport\.verbose: "):
        Config.load(write()).resolve(TRANSPORT, wire_plugins())


def test_an_unknown_plugin_has_the_field_in_front(write: WriteConfig) -> None:
    path = write('transport = "tpc"')
    with pytest.raises(PluginError) as caught:
        Config.load(path).resolve(TRANSPORT, wire_plugins())
    assert str(caught.value) == f'{path}: transport: no transport "tpc"; installed: tcp. Did you mean "tcp"?'


@pytest.mark.parametrize(
    ("kind", "extra"), [(TRANSPORT, "riteraft-core[tcp,sqlite]"), (STORAGE, "riteraft-core[tcp,sqlite]")]
)
def test_a_missing_plugin_comes_with_its_cure(kind: Kind[object], extra: str) -> None:
    config = Config(cluster="c", address="127.0.0.1:0")
    with pytest.raises(PluginError) as caught:
        config.resolve(kind, Plugins())
    assert f'pip install "{extra}"' in str(caught.value)


def test_code_passes_objects_as_options() -> None:
    hub = Hub()
    for transport in ({"name": "tcp", "hub": hub}, PluginChoice("tcp", {"hub": hub})):
        config = Config(cluster="c", address="127.0.0.1:0", transport=transport)
        _, options = config.resolve(TRANSPORT, wire_plugins())
        assert isinstance(options, WireOptions)
        assert options.hub is hub


def test_a_choice_can_be_resolved_without_a_config() -> None:
    with pytest.raises(ConfigError, match=r"^transport\.lanes: "):
        resolve(TRANSPORT, PluginChoice("tcp", {"lanes": 1}), wire_plugins())


def test_the_built_in_plugins_resolve() -> None:
    plugins = Plugins.load()
    config = Config(cluster="c", address="127.0.0.1:0", storage="memory")
    assert config.resolve(STORAGE, plugins)[0].name == "memory"
    assert config.resolve(CONSENSUS, plugins)[0].name == "raft-rs"


def test_the_memory_transport_in_a_file_is_refused(write: WriteConfig) -> None:
    path = write('transport = "memory"')
    with pytest.raises(ConfigError) as caught:
        Config.load(path).resolve(TRANSPORT, Plugins.load())
    text = str(caught.value)
    assert text.startswith(f"{path}: transport")
    assert "for tests in one process" in text
    assert "use tcp" in text


def test_the_memory_transport_takes_its_network_in_code() -> None:
    from riteraft_core.memory import MemoryNetwork

    network = MemoryNetwork()
    config = Config(cluster="c", address="127.0.0.1:0", transport={"name": "memory", "network": network})
    _, options = config.resolve(TRANSPORT, Plugins.load())
    assert options.network is network  # type: ignore[attr-defined]
