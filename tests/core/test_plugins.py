from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from pydantic import BaseModel, ConfigDict
from riteraft_core._plugins import CONSENSUS, KINDS, STORAGE, TRANSPORT, Origin, PluginRow, Plugins, require_backend
from riteraft_core.errors import PluginError
from riteraft_core.hookspecs import hookimpl
from riteraft_core.protocols import Provider

import riteraft_core

Install = Callable[..., None]

PIGEON = """
    from contextlib import asynccontextmanager
    from pydantic import BaseModel, ConfigDict
    from riteraft_core.hookspecs import hookimpl
    from riteraft_core.protocols import Provider

    class PigeonOptions(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        birds: int = 2

    @asynccontextmanager
    async def open_pigeon(options, context):
        yield object()

    @hookimpl
    def riteraft_transports():
        return [Provider("pigeon", options=PigeonOptions, open=open_pigeon)]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution as pip would, with one module and one entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, source: str, *, name: str = "pigeon", version: str = "1.2") -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[riteraft]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


class NoOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def open_nothing(options: object, context: object) -> None:
    raise NotImplementedError


def provider(name: str, backends: tuple[str, ...] = ("asyncio", "trio")) -> Provider[object]:
    return Provider(name, options=NoOptions, open=open_nothing, backends=backends)  # type: ignore[arg-type]


def table(*names: str) -> Plugins:
    return Plugins([(TRANSPORT, provider(name), Origin(f"riteraft-{name}", "1.0", name)) for name in names])


def refusal(plugins: Plugins, name: str, kind: object = TRANSPORT) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.get(kind, name)  # type: ignore[arg-type]
    return str(caught.value)


# --- what is installed ---


def test_core_is_a_package_and_no_shadow_of_its_folder() -> None:
    assert riteraft_core.__file__ is not None


@pytest.mark.parametrize("entry", entry_points(group="riteraft"), ids=lambda entry: entry.name)
def test_each_installed_entry_point_resolves_and_brings_a_provider(entry: object) -> None:
    broken = [row for row in Plugins.load().rows() if row.origin.entry_point == entry.name and row.problem]  # type: ignore[attr-defined]
    assert broken == []


def test_the_built_ins_come_through_the_same_hooks() -> None:
    plugins = Plugins.load()
    assert "memory" in plugins.names(TRANSPORT)
    assert "memory" in plugins.names(STORAGE)
    assert "raft-rs" in plugins.names(CONSENSUS)


def test_a_plugin_is_found_by_its_entry_point(install: Install) -> None:
    install("riteraft-transport-pigeon", PIGEON)
    plugins = Plugins.load()

    assert plugins.get(TRANSPORT, "pigeon").options().birds == 2  # type: ignore[attr-defined]
    assert PluginRow(
        "transport", "pigeon", Origin("riteraft-transport-pigeon", "1.2", "pigeon"), ("asyncio", "trio")
    ) in (plugins.rows())


def test_a_table_is_made_anew_each_time(install: Install) -> None:
    before = Plugins.load()
    install("riteraft-transport-pigeon", PIGEON)
    assert "pigeon" not in before.names(TRANSPORT)
    assert "pigeon" in Plugins.load().names(TRANSPORT)
    assert "pigeon" in Plugins.load().names(TRANSPORT)  # a second load finds imported modules again


# --- choosing a name that is not there ---


def test_an_unknown_name_lists_what_is_installed() -> None:
    assert refusal(table("tcp", "memory"), "owl") == 'no transport "owl"; installed: memory, tcp.'


def test_a_misspelt_name_gets_a_hint_and_the_cure() -> None:
    assert refusal(table("memory", "tcp"), "gprc") == (
        'no transport "gprc"; installed: memory, tcp. Did you mean "grpc"? '
        'Install it: pip install "riteraft-core[grpc]"'
    )
    assert refusal(table("memory", "tcp"), "tpc") == 'no transport "tpc"; installed: memory, tcp. Did you mean "tcp"?'


def test_the_cure_names_all_that_a_usual_node_lacks() -> None:
    assert refusal(Plugins(), "tcp") == (
        'no transport "tcp"; installed: none. Install it: pip install "riteraft-core[tcp,sqlite]"'
    )
    assert 'pip install "riteraft-core[sqlite]"' in refusal(table("tcp"), "sqlite", STORAGE)
    assert refusal(table("tcp"), "rraft", CONSENSUS).endswith("nox -s rraft")


def test_kinds_do_not_mix() -> None:
    assert 'no storage "tcp"' in refusal(table("tcp"), "tcp", STORAGE)


# --- broken plugins ---


def test_a_plugin_that_fails_to_import_stops_nobody_who_does_not_choose_it(install: Install) -> None:
    install("riteraft-transport-pigeon", "import a_module_nobody_has")
    plugins = Plugins.load()

    assert plugins.get(STORAGE, "memory").name == "memory"
    row = plugins.rows()[-1]
    assert (row.kind, row.name, row.origin.distribution) == ("", "pigeon", "riteraft-transport-pigeon")
    assert "a_module_nobody_has" in (row.problem or "")


def test_a_plugin_that_fails_to_import_is_raised_with_its_cause_when_chosen(install: Install) -> None:
    install("riteraft-transport-pigeon", "raise RuntimeError('no wings')")
    with pytest.raises(PluginError, match=r"riteraft-transport-pigeon 1\.2.*no wings") as caught:
        Plugins.load().get(TRANSPORT, "pigeon")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_name_not_found_mentions_the_plugins_that_failed(install: Install) -> None:
    install("riteraft-birds", "raise RuntimeError('no wings')", name="birds")
    with pytest.raises(PluginError, match=r"could not be loaded: .*riteraft-birds 1\.2.*no wings") as caught:
        Plugins.load().get(TRANSPORT, "pigeon")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_misspelt_hook_is_an_error_that_names_it(install: Install) -> None:
    install("riteraft-transport-pigeon", PIGEON.replace("riteraft_transports", "riteraft_transport"))
    with pytest.raises(PluginError) as caught:
        Plugins.load().get(TRANSPORT, "pigeon")
    assert "riteraft-transport-pigeon 1.2" in str(caught.value)
    assert "riteraft_transport (did you mean riteraft_transports?)" in str(caught.value)


def test_a_misspelt_hook_in_one_plugin_leaves_the_others_alone(install: Install) -> None:
    install("riteraft-a-pigeon", PIGEON.replace("riteraft_transports", "riteraft_transport"), name="a")
    install("riteraft-z-pigeon", PIGEON, name="z")
    assert Plugins.load().get(TRANSPORT, "pigeon").name == "pigeon"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (PIGEON.replace("return [", "return ['tcp', "), "no Provider"),
        (PIGEON.replace('extra="forbid"', 'extra="ignore"'), 'extra="forbid"'),
        (PIGEON.replace("return [", "return None; ["), "TypeError"),
        (PIGEON.replace("return [", "1 / 0; ["), "ZeroDivisionError"),
        (PIGEON.replace("def riteraft_transports()", "def riteraft_transports(what)"), "PluginValidationError"),
    ],
    ids=["no-provider", "lenient-options", "no-list", "raises", "wrong-arguments"],
)
def test_a_plugin_that_breaks_the_contract_is_a_failure_of_its_own(install: Install, broken: str, why: str) -> None:
    install("riteraft-transport-pigeon", broken)
    plugins = Plugins.load()
    assert why in refusal(plugins, "pigeon")
    assert plugins.get(STORAGE, "memory").name == "memory"


# --- two of one name ---


def test_a_clash_names_both_distributions(install: Install) -> None:
    install("riteraft-pigeon-a", PIGEON)
    install("riteraft-pigeon-b", PIGEON, version="3")
    plugins = Plugins.load()

    text = refusal(plugins, "pigeon")
    assert "riteraft-pigeon-a 1.2" in text
    assert "riteraft-pigeon-b 3" in text
    clashing = [row for row in plugins.rows() if row.name == "pigeon"]
    assert len(clashing) == 2
    assert all(row.problem == text for row in clashing)


def test_a_clash_stops_nobody_who_chooses_another_name(install: Install) -> None:
    install("riteraft-pigeon-a", PIGEON)
    install("riteraft-pigeon-b", PIGEON)
    assert Plugins.load().get(STORAGE, "memory").name == "memory"


def test_one_module_named_twice_is_no_clash(install: Install, tmp_path: Path) -> None:
    install("riteraft-pigeon", PIGEON)
    (tmp_path / "riteraft_pigeon-1.2.dist-info" / "entry_points.txt").write_text(
        "[riteraft]\none = riteraft_pigeon\ntwo = riteraft_pigeon\n"
    )
    assert Plugins.load().get(TRANSPORT, "pigeon").name == "pigeon"


# --- plugins passed in code ---


def in_code(**hooks: Callable[[], list[Provider[object]]]) -> SimpleNamespace:
    return SimpleNamespace(__name__="mine", **{name: hookimpl(hook) for name, hook in hooks.items()})


def test_code_can_add_plugins() -> None:
    plugins = Plugins.load(extra=[in_code(riteraft_transports=lambda: [provider("owl")])])
    assert plugins.get(TRANSPORT, "owl").name == "owl"
    assert "memory" in plugins.names(STORAGE)


def test_a_broken_plugin_in_code_is_raised_at_once() -> None:
    with pytest.raises(PluginError, match=r"mine.*riteraft_transport \(did you mean riteraft_transports\?\)"):
        Plugins.load(extra=[in_code(riteraft_transport=lambda: [provider("owl")])])
    with pytest.raises(PluginError, match=r"mine.*ZeroDivisionError"):
        Plugins.load(extra=[in_code(riteraft_transports=lambda: [1 / 0])])  # type: ignore[list-item]


def test_a_plugin_in_code_clashes_with_an_installed_one(install: Install) -> None:
    install("riteraft-transport-pigeon", PIGEON)
    text = refusal(Plugins.load(extra=[in_code(riteraft_transports=lambda: [provider("pigeon")])]), "pigeon")
    assert "riteraft-transport-pigeon 1.2" in text
    assert "mine (passed in code)" in text


# --- event loops ---


def test_a_plugin_for_one_event_loop_is_refused_by_name_on_the_other() -> None:
    async def check(only: str) -> None:
        require_backend(TRANSPORT, provider("grpc", backends=(only,)))

    for mine, other in [("asyncio", "trio"), ("trio", "asyncio")]:
        anyio.run(check, mine, backend=mine)
        with pytest.raises(PluginError) as caught:
            anyio.run(check, other, backend=mine)
        assert str(caught.value) == (
            f"transport grpc runs on {other} only; start the node with anyio.run(..., backend='{other}')"
        )


def test_there_is_a_hook_for_each_kind() -> None:
    from riteraft_core import hookspecs

    assert all(hasattr(hookspecs, kind.hook) for kind in KINDS)
