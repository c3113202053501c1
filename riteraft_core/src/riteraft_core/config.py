"""What a node is told: `Config`, from a TOML file, the environment `RITERAFT_*` and code."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ._address import Address
from ._config_errors import explain, located
from ._config_sources import PREFIX, Layer, Origins, PluginChoice, as_table, read_environment, read_file
from ._plugins import KINDS, Kind, Plugins
from ._security_options import SecurityOptions
from .errors import ConfigError, PluginError
from .protocols import EngineLimits, EngineTiming, Provider

__all__ = ["Config", "Limits", "PluginChoice", "SecurityOptions", "Snapshots", "Timing", "resolve"]

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB

ELECTION_TICKS = 20
"""Ticks in an election timeout: fine enough that timeouts drawn between one and two of it rarely tie."""
HEARTBEAT_TICKS = 2
"""A leader sends ten heartbeats in an election timeout, so a few lost ones do not cost it its place."""

DEFAULT_PLUGINS = {"transport": "tcp", "storage": "sqlite", "consensus": "raft-rs"}
CHOICES = frozenset(kind.field for kind in KINDS)

_FILE = "_config_file"
"""The keyword under which `load` hands the file's path to the constructor."""

_STORE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _choice(value: Any, info: ValidationInfo) -> Any:
    table = as_table(value)
    if isinstance(table, dict):
        # An option alone, as from RITERAFT_TRANSPORT__MAX_FRAME, belongs to the plugin that is there by default.
        name = table.pop("name", DEFAULT_PLUGINS[str(info.field_name)])
        if isinstance(name, str) and name:
            return PluginChoice(name, table)
    raise ValueError(f'must be a name such as "{DEFAULT_PLUGINS[str(info.field_name)]}", or a table with a name')


Choice = Annotated[PluginChoice, BeforeValidator(_choice)]


class _Table(BaseModel):
    """A table of the config: frozen, and a misspelt field in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timing(_Table):
    """How fast a cluster notices that a node is gone. The same on every node, please."""

    election_timeout: float = Field(default=1.0, ge=0.05, le=600)
    """Seconds without a leader before a node tries to become it; the wait is drawn between one and two of it.

    At 1.0 a dead leader is replaced within about two seconds, and a node may stand still for most of a second (a slow
    disk, a busy machine) without an election. Keep it above ten times the network's round trip.
    """

    @property
    def tick(self) -> float:
        """Seconds between two ticks of raft's clock."""
        return self.election_timeout / ELECTION_TICKS

    @property
    def engine(self) -> EngineTiming:
        """What the consensus engine is told."""
        return EngineTiming(election_tick=ELECTION_TICKS, heartbeat_tick=HEARTBEAT_TICKS)


class Limits(_Table):
    """What a node holds at most; whatever would be above it is refused or waits, so memory stays bounded."""

    max_command_bytes: int = Field(default=MIB, ge=1, le=8 * MIB)
    """One command; a larger one is refused by `propose`. Commands are copied to every node and kept in every log:
    put larger things elsewhere and propose their names."""
    max_proposals_in_flight: int = Field(default=10_000, ge=1)
    """Commands of this node without an answer. Ten times what saturates a disk (1024 in flight), and the results of
    that many are kept in the session table."""
    max_bytes_in_flight: int = Field(default=64 * MIB, ge=1)
    """Bytes of those commands, and of what a leader has not committed yet. Of its own commands a node hands over a
    quarter of this at once, since on the way to the Store each is in memory several times; the others wait. Commands
    of up to 4 KiB have a queue and a quarter of their own, and go first: larger ones wait while any of them is in
    flight, but for half a MiB after every eight of them."""
    max_pinned_bytes: int = Field(default=1024 * MIB, ge=1)
    """Log kept only because a snapshot from before it is being sent; above it the peer will need another one."""

    max_snapshot_bytes: int = Field(default=16 * 1024 * MIB, ge=1)
    """One snapshot taken from a peer; a larger one is not taken, so that nobody fills the disk. A Store's snapshot is
    in memory as a whole when it is made, so an honest one is hardly ever larger."""

    @model_validator(mode="after")
    def _one_command_fits(self) -> Limits:
        if self.max_bytes_in_flight < self.max_command_bytes:
            raise ValueError(
                f"max_bytes_in_flight ({self.max_bytes_in_flight}) must be at least "
                f"max_command_bytes ({self.max_command_bytes}), or the largest command never gets in"
            )
        return self

    @property
    def engine(self) -> EngineLimits:
        """What the consensus engine is told."""
        # raft-rs wants one message to fit into what may be uncommitted.
        message = min(EngineLimits().max_size_per_msg, self.max_bytes_in_flight)
        return EngineLimits(max_size_per_msg=message, max_uncommitted_size=self.max_bytes_in_flight)


class Snapshots(_Table):
    """When a snapshot is made and how much log stays behind it."""

    entries: int = Field(default=50_000, ge=1)
    """Entries applied from one snapshot to the next: bounds the replay at a start to a second or so, and the cost of a
    snapshot is spread over that many commands. The first one comes earlier, on each node after another number of them:
    so they do not all make theirs at the same time."""
    bytes: int = Field(default=64 * MIB, ge=1)
    """The same in bytes of commands, whichever comes first: the log since the last snapshot is held in memory. A state
    of many gigabytes wants more, for each snapshot writes all of it."""
    tail: int = Field(default=5_000, ge=0)
    """Entries kept behind a snapshot: a follower that lags by less gets them instead of the whole state."""
    tail_bytes: int = Field(default=32 * MIB, ge=0)
    """The same in bytes of commands, whichever is less: the tail is held in memory too."""
    digest: int = Field(default=10_000, ge=100)
    """If the Store has a `digest`, the nodes compare it at each log index that is a multiple of this: the same on
    every node. Each comparison costs every node one digest and one small log entry."""


class Config(BaseSettings):
    """Everything a node is told. Made by `Config.load("n1.toml")`, or in code by keywords; never changed.

    A value comes from the keyword, else from the environment (`RITERAFT_ADDRESS`; `__` enters a table:
    `RITERAFT_TIMING__ELECTION_TIMEOUT`), else from the file, else from the default. A plugin's options count only
    beside its own name: a keyword or variable that chooses another plugin drops the options of the lower layers.

    :raises ConfigError: a value is missing, wrong or unknown; one line for each, with its origin, field and cure.
        Names and options of plugins are checked later, by `resolve`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    cluster: str = Field(min_length=1, max_length=200, examples=["orders"])
    """The cluster's human name; a peer of another cluster is refused."""
    address: str = Field(examples=["127.0.0.1:7001"])
    """`host:port` to listen on, and told to the others unless `advertise` says another; port 0 takes a free one."""
    advertise: str | None = Field(default=None, validate_default=True)
    """The address under which the others reach this node, where that is not the one it listens on."""
    data_dir: Path | None = None
    """The node's folder; relative to the file it is written in, else to the working directory."""
    bootstrap: bool = False
    """Form a new cluster of this node alone; ignored once `data_dir` holds a node. On one node only."""
    peers: tuple[str, ...] = ()
    """Addresses of any members, asked to let this node join; only while `data_dir` is empty."""
    store: str | None = None
    """`module:attribute` of the Store, called if it is callable; an object passed in code wins."""
    transport: Choice = PluginChoice(DEFAULT_PLUGINS["transport"])
    storage: Choice = PluginChoice(DEFAULT_PLUGINS["storage"])
    consensus: Choice = PluginChoice(DEFAULT_PLUGINS["consensus"])
    timing: Timing = Timing()
    limits: Limits = Limits()
    snapshot: Snapshots = Snapshots()
    security: SecurityOptions = SecurityOptions()
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    """Decides the election timeouts; drawn at random if not given, which is what a real cluster wants."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    def __init__(self, **values: Any) -> None:
        keywords = {name: value for name, value in values.items() if name != _FILE}
        variables = [name for name in os.environ if name.startswith(PREFIX)]
        origins = Origins(keywords, variables, values.get(_FILE))
        try:
            super().__init__(**values)
        except ValidationError as exc:
            # Without the cause: pydantic's own text says the same again, less readably.
            raise ConfigError(explain(exc, type(self), origins)) from None
        self._origins = origins

    @classmethod
    def load(cls, path: str | os.PathLike[str], **overrides: Any) -> Config:
        """Read a TOML file; the environment wins over it, and `overrides` over both.

        :raises ConfigError: the file is missing or no TOML, or the values are wrong.
        """
        return cls(**{_FILE: Path(path)}, **overrides)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return our own three layers, highest first."""
        keywords = init_settings()
        file = keywords.pop(_FILE, None)
        layers = [keywords, read_environment(os.environ, CHOICES), {} if file is None else read_file(file)]
        return tuple(Layer(settings_cls, values, CHOICES) for values in layers)

    def resolve(self, kind: Kind[T], plugins: Plugins) -> tuple[Provider[T], BaseModel]:
        """Return the provider that this config chose for `kind`, and its options, checked.

        :raises PluginError: there is no such plugin, or it is broken.
        :raises ConfigError: an option is missing, wrong or unknown.
        """
        return resolve(kind, getattr(self, kind.field), plugins, self._origins)

    def wrong(self, field: str, what: str) -> ConfigError:
        """Return the error for a field that turned out wrong later; the text begins with where it stands."""
        return ConfigError(located((field,), what, self._origins))

    def neither_bootstrap_nor_peers(self) -> ConfigError:
        """Return the error for a node that neither forms a cluster nor knows whom to ask for admission."""
        return self.wrong(
            "peers",
            "data_dir holds no node yet: set `bootstrap = true` on the one node that forms a new cluster, "
            "or `peers` to the address of any member to join one",
        )

    def placed(self, error: ConfigError) -> ConfigError:
        """Return the error with the place in front of the field that its text begins with, as in `address: taken`."""
        field, colon, what = str(error).partition(": ")
        return self.wrong(field, what) if colon and field in type(self).model_fields else error

    @field_validator("peers", mode="before")
    @classmethod
    def _peers_from_one_text(cls, value: Any) -> Any:
        # RITERAFT_PEERS="a:1,b:2"; an empty variable is an empty list.
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        _host_and_port(value)
        return value

    @field_validator("advertise")
    @classmethod
    def _can_be_told_to_others(cls, value: str | None, info: ValidationInfo) -> str | None:
        address = info.data.get("address")  # missing if it is wrong itself
        if value is not None:
            _must_be_reachable(value)
        elif address is not None and _is_wildcard(_host_and_port(address)[0]):
            raise ValueError(
                f"is needed, for address {address} listens everywhere and is none that others can reach; "
                'for example advertise = "10.0.0.1:7001"'
            )
        return value

    @field_validator("peers")
    @classmethod
    def _are_reachable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for peer in value:
            _must_be_reachable(peer)
        return value

    @field_validator("store")
    @classmethod
    def _is_reference(cls, value: str | None) -> str | None:
        if value is not None and not _STORE.fullmatch(value):
            raise ValueError(f'must be "module:attribute", for example "orders:OrderStore"; it is {value!r}')
        return value


def resolve(
    kind: Kind[T], choice: PluginChoice, plugins: Plugins, origins: Origins | None = None
) -> tuple[Provider[T], BaseModel]:
    """Return the provider that `choice` names, and the choice's options as that provider's own model.

    :raises PluginError: there is no such plugin, or it is broken; the text begins with the field.
    :raises ConfigError: an option is missing, wrong or unknown; the text begins with the option's path.
    """
    origins = origins or Origins()
    try:
        provider = plugins.get(kind, choice.name)
    except PluginError as exc:
        raise PluginError(located((kind.field,), str(exc), origins)) from exc.__cause__
    try:
        return provider, provider.options.model_validate(dict(choice.options))
    except ValidationError as exc:
        raise ConfigError(explain(exc, provider.options, origins, under=(kind.field,))) from None


def _host_and_port(address: str) -> tuple[str, int]:
    parsed = Address.parse(address)
    return parsed.host, parsed.port


def _must_be_reachable(address: str) -> None:
    host, port = _host_and_port(address)
    if port == 0 or _is_wildcard(host):
        raise ValueError(f"{address} is no address that others can reach: give a host and a port that is not 0")


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False  # a host name
