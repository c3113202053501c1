from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from riteraft_core._store import check_store, load_store
from riteraft_core.config import Config
from riteraft_core.errors import ConfigError

WriteModule = Callable[[str], None]

STORE = """
    class OrderStore:
        def apply(self, command): return command
        def snapshot(self): return b""
        def restore(self, snapshot): pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write orders.py into the working directory, which is not on sys.path, as for the `riteraft` command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    for name in ("orders", "shop", "shop.orders"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def module(source: str) -> None:
        (tmp_path / "orders.py").write_text(textwrap.dedent(source))

    return module


def load(reference: str | None) -> object:
    return load_store(Config(cluster="c", address="127.0.0.1:0", store=reference))


def complaint(reference: str | None) -> str:
    with pytest.raises(ConfigError, match=r"^store: ") as caught:
        load(reference)
    return str(caught.value)


def test_a_class_is_called(module: WriteModule) -> None:
    module(STORE)
    assert type(load("orders:OrderStore")).__name__ == "OrderStore"


def test_a_function_is_called(module: WriteModule) -> None:
    module(textwrap.dedent(STORE) + "\ndef make(): return OrderStore()")
    assert type(load("orders:make")).__name__ == "OrderStore"


def test_an_object_is_taken_as_it_is(module: WriteModule) -> None:
    module(textwrap.dedent(STORE) + "\nstore = OrderStore()")
    assert load("orders:store") is sys.modules["orders"].store


def test_a_name_within_a_name(module: WriteModule) -> None:
    module("class Shop:\n" + textwrap.indent(textwrap.dedent(STORE), "    "))
    assert type(load("orders:Shop.OrderStore")).__name__ == "OrderStore"


def test_a_module_in_a_package(module: WriteModule, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text(textwrap.dedent(STORE))
    assert type(load("shop.orders:OrderStore")).__name__ == "OrderStore"


def test_a_store_that_is_not_named(module: WriteModule) -> None:
    assert 'for example store = "orders:OrderStore"' in complaint(None)


def test_a_module_that_is_not_there(module: WriteModule, tmp_path: Path) -> None:
    assert f"there is no module orders, neither in {tmp_path}" in complaint("orders:OrderStore")


def test_a_module_that_lacks_a_module_of_its_own(module: WriteModule) -> None:
    module("import a_module_nobody_has")
    assert complaint("orders:OrderStore") == ("store: importing orders failed: No module named 'a_module_nobody_has'")


def test_a_module_that_cannot_be_imported(module: WriteModule) -> None:
    module("1 / 0")
    assert "importing orders failed: ZeroDivisionError" in complaint("orders:OrderStore")


def test_a_misspelt_attribute(module: WriteModule) -> None:
    module(STORE)
    assert "there is no OrderStor in orders; did you mean OrderStore?" in complaint("orders:OrderStor")


def test_a_store_that_cannot_be_made(module: WriteModule) -> None:
    module("class OrderStore:\n    def __init__(self, size): pass")
    assert "orders:OrderStore() failed: TypeError" in complaint("orders:OrderStore")


def test_what_is_no_store(module: WriteModule) -> None:
    module("class OrderStore:\n    def apply(self, command): pass\nnumber = 3")
    assert "OrderStore is no Store: it has no snapshot and no restore" in complaint("orders:OrderStore")
    assert "int is no Store" in complaint("orders:number")


def test_a_class_passed_in_place_of_an_object() -> None:
    class Counter:
        def apply(self, command: bytes) -> bytes:
            return command

        def snapshot(self) -> bytes:
            return b""

        def restore(self, snapshot: bytes) -> None:
            pass

    with pytest.raises(ConfigError, match=r"Counter is a class; a Store is an object: Counter\(\)"):
        check_store(Counter)
    store = Counter()
    assert check_store(store) is store
