"""Where a config's values come from: keywords, the environment, a file; the first one that has a value wins.

pydantic-settings merges the layers, field by field and table by table. Its own sources for TOML and the environment
are not used: a missing file is empty to them, a misspelt variable nothing, a plugin's name bad JSON, and an option
beside the short form `transport = "tcp"` would lose the name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ._private_file import check_private
from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PREFIX = "RITERAFT_"
NESTED = "__"
SECURITY_FILES = frozenset({"ca", "certificate", "key", "secret_file"})
"""The fields of `[security]` that are paths."""

FieldPath = tuple[str | int, ...]


class Layer(PydanticBaseSettingsSource):
    """One layer of values; pydantic-settings calls the highest first, and shows each what those above it gave.

    A plugin choice is always handed on as a table, so that a name and options from two layers come together. Options
    belong to a plugin: those beside another name than the one a higher layer chose are left out.
    """

    def __init__(self, settings: type[BaseSettings], values: Mapping[str, Any], choices: Collection[str]) -> None:
        super().__init__(settings)
        self._values = values
        self._choices = choices

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: `__call__` gives all values at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Return the values of this layer."""
        values = dict(self._values)
        for name in self._choices:
            if name in values:
                table, above = as_table(values[name]), self.current_state.get(name)
                if names_another(table, above):
                    del values[name]
                else:
                    values[name] = table
        return values


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """A plugin's name and the options for it, not yet checked against the plugin: `resolve` does that.

    In a file `transport = "tcp"`, or a table `[transport]` with `name` and the options beside it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def as_table(choice: Any) -> Any:
    """Return the long form of a plugin choice; what is no choice at all is left for the validation."""
    if isinstance(choice, str):
        return {"name": choice}
    if isinstance(choice, PluginChoice):
        return {**choice.options, "name": choice.name}
    return dict(choice) if isinstance(choice, Mapping) else choice


def names_another(table: Any, above: Any) -> bool:
    """Say whether both choose a plugin, and not the same."""
    both = isinstance(table, dict) and isinstance(above, dict) and "name" in table and "name" in above
    return both and table["name"] != above["name"]


def read_file(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; `data_dir` and the files of `[security]` in it are relative to it.

    :raises ConfigError: it cannot be read, is no TOML, or holds a secret and is open to others than its owner.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(f"{path}: not a TOML file: {exc}") from exc
    if isinstance(values.get("data_dir"), str):
        values["data_dir"] = beside(path, values["data_dir"])
    security = values.get("security")
    if isinstance(security, dict):
        for name in SECURITY_FILES & security.keys():
            if isinstance(security[name], str):
                security[name] = beside(path, security[name])
        if "secret" in security:
            check_private("security.secret", path, path.stat().st_mode)
    return values


def beside(path: Path, written: str) -> Path:
    """Return the path that `written` in the file at `path` means."""
    return path.absolute().parent / Path(written).expanduser()


def read_environment(environ: Mapping[str, str], choices: Collection[str]) -> dict[str, Any]:
    """Return what the variables `RITERAFT_*` say; one that no field knows is left for the validation to refuse."""
    values: dict[str, Any] = {}
    # Sorted, RITERAFT_TRANSPORT comes before RITERAFT_TRANSPORT__MAX_FRAME: the name is there when its option comes.
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        *tables, last = variable_path(variable)
        here = values
        for table in tables:
            if not isinstance(here.get(table), dict):
                here[table] = as_table(here[table]) if table in here and here is values and table in choices else {}
            here = here[table]
        here[last] = _decoded(environ[variable])
    return values


def variable_path(variable: str) -> list[str]:
    """Return the field path that a variable stands for."""
    return variable[len(PREFIX) :].lower().split(NESTED)


def variable_name(path: Sequence[str | int]) -> str:
    """Return the variable that stands for a field path."""
    return PREFIX + NESTED.join(map(str, path)).upper()


def _decoded(text: str) -> Any:
    """Return lists and tables that are written as JSON; anything else stays the text it is, for its field to read."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text  # an IPv6 address begins with a bracket too
    return text


@dataclass(frozen=True, slots=True)
class Origins:
    """Remembers which layer gave which value, so that an error can name it; two configs are equal whatever it says."""

    keywords: Mapping[str, Any] = field(default_factory=dict, compare=False)
    variables: Collection[str] = field(default=(), compare=False)
    file: Path | None = field(default=None, compare=False)

    def of(self, path: FieldPath) -> str:
        """Return the variable or the file that the value at `path` came from; empty if code gave it."""
        if _holds(self.keywords, path):
            return ""
        return self.variable(path) or (str(self.file) if self.file is not None else "")

    def variable(self, path: FieldPath) -> str | None:
        """Return the variable that gave the value at `path`, or a part of it."""
        if _holds(self.keywords, path):
            return None
        steps = [str(step) for step in path]
        for variable in sorted(self.variables, key=len, reverse=True):
            given = variable_path(variable)
            shorter = min(len(given), len(steps))
            if given[:shorter] == steps[:shorter]:
                return variable
        return None


def _holds(values: Any, path: FieldPath) -> bool:
    """Say whether the values reach along `path`, as far as they are tables."""
    for step in path:
        if not isinstance(values, Mapping):
            return True
        if step not in values:
            return False
        values = values[step]
    return True
