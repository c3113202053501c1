"""The Store that a config names: found, made, and checked for its three methods."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import cast

from ._plugins import nearest
from .config import Config
from .errors import ConfigError
from .protocols import Store

METHODS = ("apply", "snapshot", "restore")


def load_store(config: Config) -> Store:
    """Import what `config.store` names and call it if it is callable (a class, a function that makes a Store).

    Modules are looked for in the working directory too, as `python -m` does: it is added to `sys.path`, and stays
    there, for the Store's own imports may come later.

    :raises ConfigError: no Store is named, the name cannot be imported or called, or the result is no Store.
    """
    reference = config.store
    if reference is None:
        raise config.wrong("store", 'is needed; for example store = "orders:OrderStore" (module:attribute)')
    module_name, _, path = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise config.wrong("store", f"importing {module_name} failed: {exc}") from exc
        raise config.wrong(
            "store", f"there is no module {exc.name}, neither in {here} nor among the installed packages"
        ) from exc
    except Exception as exc:
        raise config.wrong("store", f"importing {module_name} failed: {type(exc).__name__}: {exc}") from exc
    for step in path.split("."):
        if not hasattr(found, step):
            near = nearest(step, [name for name in dir(found) if not name.startswith("_")])
            hint = f"; did you mean {near}?" if near else ""
            raise config.wrong("store", f"{reference}: there is no {step} in {module_name}{hint}")
        found = getattr(found, step)
    if callable(found):
        try:
            found = found()
        except Exception as exc:
            raise config.wrong("store", f"{reference}() failed: {type(exc).__name__}: {exc}") from exc
    try:
        return check_store(found)
    except ConfigError as exc:
        raise config.wrong("store", f"{reference}: {exc}") from None


def check_store(store: object) -> Store:
    """Return `store` if it is an object with the methods of a `Store`.

    :raises ConfigError: it is a class, or a method is missing.
    """
    if isinstance(store, type):
        raise ConfigError(f"{store.__name__} is a class; a Store is an object: {store.__name__}()")
    missing = [name for name in METHODS if not callable(getattr(store, name, None))]
    if missing:
        raise ConfigError(
            f"{type(store).__name__} is no Store: it has no {' and no '.join(missing)}; "
            "a Store has apply(command), snapshot() and restore(snapshot)"
        )
    return cast("Store", store)
