"""The plugins that are installed, by kind and name."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

import pluggy

from . import hookspecs
from .errors import PluginError
from .protocols import Consensus, LogStorage, Provider, Transport
from .security import Security

T = TypeVar("T")

ENTRY_POINT_GROUP = "riteraft"

USUAL_EXTRAS = ("tcp", "sqlite")
"""What a node has if its config names nothing: a cure for one names the other too, if that is missing as well."""


CURES = {"rraft": "rraft-py has no wheel to install; riteraft's repository builds one: nox -s rraft"}
"""What to do for an extra that pip cannot install by itself."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of plugin; `T` is the protocol that its plugins meet."""

    field: str
    """Its field in the config."""
    noun: str
    hook: str
    extras: tuple[str, ...]
    """The names that an extra of riteraft-core installs."""


TRANSPORT: Kind[Transport] = Kind("transport", "transport", "riteraft_transports", ("tcp", "grpc"))
STORAGE: Kind[LogStorage] = Kind("storage", "storage", "riteraft_log_storages", ("sqlite",))
CONSENSUS: Kind[Consensus] = Kind("consensus", "consensus engine", "riteraft_consensus_engines", ("rraft",))
KINDS: tuple[Kind[Any], ...] = (TRANSPORT, STORAGE, CONSENSUS)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin comes from."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        """Return what an error calls it."""
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of `riteraft plugins`."""

    kind: str
    """Empty for a plugin that could not be loaded: nobody knows what it would have brought."""
    name: str
    origin: Origin
    backends: tuple[str, ...] = ()
    problem: str | None = None


class Plugins:
    """The table of plugins, made once for a node by `load`; it has a pluggy manager of its own and never changes.

    A plugin that cannot be loaded, and two plugins of one kind and name, are errors only for the node that chooses
    them: an installed distribution that is of no concern to a node does not stop it.
    """

    def __init__(
        self,
        providers: Sequence[tuple[Kind[Any], Provider[Any], Origin]] = (),
        failures: Sequence[tuple[Origin, Exception]] = (),
    ) -> None:
        self._providers = tuple(providers)
        self._failures = tuple(failures)

    @classmethod
    def load(cls, extra: Iterable[object] = ()) -> Plugins:
        """Find the plugins of the entry-point group `riteraft`, and take the plugin objects `extra` beside them.

        :raises PluginError: one of `extra` is broken. A broken installed one is kept, for `get` and `rows`.
        """
        loader = _Loader()
        # pluggy's own loader drops the second of two entry points of one name and lets one failure stop everything.
        for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
            name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("an unnamed distribution", "")
            origin = Origin(name, version, entry.name)
            try:
                loader.add(entry.load(), origin)
            except Exception as exc:
                loader.failures.append((origin, exc))
        for number, plugin in enumerate(extra):
            name = getattr(plugin, "__name__", type(plugin).__name__)
            try:
                loader.add(plugin, Origin(f"{name} (passed in code)", "", str(number)))
            except PluginError:
                raise
            except Exception as exc:
                raise PluginError(f"the plugin {name} passed in code is broken: {_in_short(exc)}") from exc
        return cls(loader.providers, loader.failures)

    def get(self, kind: Kind[T], name: str) -> Provider[T]:
        """Return the provider of this kind and name.

        :raises PluginError: there is none, its plugin could not be loaded (the cause is attached), or there are two.
            The text says what is installed and what would cure it.
        """
        found = [(provider, origin) for of, provider, origin in self._providers if of == kind and provider.name == name]
        if len(found) == 1:
            return cast("Provider[T]", found[0][0])
        if found:
            raise PluginError(_clash(kind, name, [origin for _, origin in found]))
        for origin, error in self._failures:
            if origin.entry_point == name:
                raise PluginError(
                    f'{kind.noun} "{name}" comes from {origin}, that could not be loaded: {_in_short(error)}'
                ) from error
        raise PluginError(self._unknown(kind, name)) from (self._failures[0][1] if self._failures else None)

    def names(self, kind: Kind[Any]) -> list[str]:
        """Return the installed names of a kind, sorted."""
        return sorted({provider.name for of, provider, _ in self._providers if of == kind})

    def rows(self) -> list[PluginRow]:
        """Return one row for each provider, sorted by kind and name, then one for each plugin that failed."""
        rows = []
        for kind, provider, origin in self._providers:
            sharing = [other for of, p, other in self._providers if of == kind and p.name == provider.name]
            problem = _clash(kind, provider.name, sharing) if len(sharing) > 1 else None
            rows.append(PluginRow(kind.field, provider.name, origin, provider.backends, problem))
        rows.sort(key=lambda row: (row.kind, row.name, str(row.origin)))
        return rows + [
            PluginRow("", origin.entry_point, origin, problem=f"{origin} could not be loaded: {_in_short(error)}")
            for origin, error in self._failures
        ]

    def _unknown(self, kind: Kind[Any], name: str) -> str:
        installed = self.names(kind)
        text = f'no {kind.noun} "{name}"; installed: {", ".join(installed) or "none"}.'
        meant = name if name in kind.extras else nearest(name, [*installed, *kind.extras])
        if meant is not None and meant != name:
            text += f' Did you mean "{meant}"?'
        if meant is not None and meant not in installed:
            text += " " + CURES.get(
                meant, f'Install it: pip install "riteraft-core[{",".join(self._missing_with(meant))}]"'
            )
        if self._failures:
            broken = "; ".join(f"{origin} ({_in_short(error)})" for origin, error in self._failures)
            text += f"\nPlugins that could not be loaded: {broken}"
        return text

    def _missing_with(self, extra: str) -> list[str]:
        """Return the extra, with the other usual ones that are missing too: one command then cures the whole config."""
        if extra not in USUAL_EXTRAS:
            return [extra]
        installed = {provider.name for _, provider, _ in self._providers}
        return [usual for usual in USUAL_EXTRAS if usual == extra or usual not in installed]


class _Loader:
    """Registers plugins one at a time with a pluggy manager, and asks each for its providers."""

    def __init__(self) -> None:
        self.providers: list[tuple[Kind[Any], Provider[Any], Origin]] = []
        self.failures: list[tuple[Origin, Exception]] = []
        self._manager = pluggy.PluginManager("riteraft")
        self._manager.add_hookspecs(hookspecs)

    def add(self, plugin: object, origin: Origin) -> None:
        """Take one plugin; whatever is wrong with it is raised, and nothing of it is kept."""
        if self._manager.is_registered(plugin):
            return  # two entry points name one module: its providers are in the table already
        self._manager.register(plugin, f"{origin.distribution}:{origin.entry_point}")
        try:
            self._check_hooks(origin)
            self.providers += [(kind, provider, origin) for kind in KINDS for provider in self._ask(kind, plugin)]
        except BaseException:
            self._manager.unregister(plugin)
            raise

    def _check_hooks(self, origin: Origin) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as exc:
            known = [kind.hook for kind in KINDS]
            unknown = [
                caller.name for caller in self._manager.get_hookcallers(exc.plugin) or () if not caller.has_spec()
            ]
            hints = [f"{hook} (did you mean {near}?)" if (near := nearest(hook, known)) else hook for hook in unknown]
            raise PluginError(
                f"{origin} implements a hook that riteraft does not know: {', '.join(hints)}; "
                f"the hooks are {', '.join(known)}"
            ) from exc

    def _ask(self, kind: Kind[Any], plugin: object) -> list[Provider[Any]]:
        found: list[Provider[Any]] = []
        for implementation in getattr(self._manager.hook, kind.hook).get_hookimpls():
            if implementation.plugin is plugin:
                found += implementation.function()
        for provider in found:
            if not isinstance(provider, Provider):
                raise PluginError(f"{kind.hook} returned {provider!r}, which is no Provider")
            if provider.options.model_config.get("extra") != "forbid":
                raise PluginError(f'{kind.hook}: the options model of "{provider.name}" must have extra="forbid"')
        return found


def require_backend(kind: Kind[Any], provider: Provider[Any]) -> None:
    """Check that a provider runs on the event loop that we run on.

    :raises PluginError: it does not; the text names those it runs on.
    """
    try:
        asyncio.get_running_loop()
        running = "asyncio"
    except RuntimeError:
        running = "trio"  # anyio knows these two
    if running not in provider.backends:
        raise PluginError(
            f"{kind.noun} {provider.name} runs on {' and '.join(provider.backends)} only; "
            f"start the node with anyio.run(..., backend={provider.backends[0]!r})"
        )


def require_security(provider: Provider[Any], security: Security) -> None:
    """Check that a transport carries out the mode of security that the config asks for.

    :raises PluginError: it does not, and would leave the node open.
    """
    if security.mode.value not in provider.security:
        raise PluginError(
            f'transport "{provider.name}" cannot carry out security mode {security.mode.value}, only '
            f"{' and '.join(provider.security)}: choose another transport, or remove [security]"
        )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return what `word` was probably meant to be, or None."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def _clash(kind: Kind[Any], name: str, origins: Iterable[Origin]) -> str:
    return f'{kind.noun} "{name}" is installed more than once: by {" and by ".join(map(str, origins))}; uninstall one'


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
