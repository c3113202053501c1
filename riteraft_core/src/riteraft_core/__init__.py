"""riteraft: programs that stay right when machines die.

Write a `Store` of three methods, choose a transport and a log storage by name, and open a node:

    async with open_node(Config.load("n1.toml"), store) as node:
        answer = await node.propose(b"a command")
"""

from __future__ import annotations

from .client import Client, open_client
from .config import Config
from .errors import (
    Busy,
    CommandRejected,
    ConfigError,
    ConsensusError,
    LostAcknowledgedData,
    NodeStopped,
    NotApplied,
    OutcomeUnknown,
    PeerUnreachable,
    PluginError,
    ProposalError,
    ReadError,
    Removed,
    RequestRefused,
    RiteraftError,
    StorageError,
    StoreError,
)
from .hookspecs import hookimpl
from .node import Node, open_node
from .protocols import Consensus, Handler, LogStorage, Provider, Store, Transport
from .raft import Mailbox, Raft
from .types import NodeStatus, Role

__all__ = [
    "Busy",
    "Client",
    "CommandRejected",
    "Config",
    "ConfigError",
    "Consensus",
    "ConsensusError",
    "Handler",
    "LogStorage",
    "LostAcknowledgedData",
    "Mailbox",
    "Node",
    "NodeStatus",
    "NodeStopped",
    "NotApplied",
    "OutcomeUnknown",
    "PeerUnreachable",
    "PluginError",
    "ProposalError",
    "Provider",
    "Raft",
    "ReadError",
    "Removed",
    "RequestRefused",
    "RiteraftError",
    "Role",
    "StorageError",
    "Store",
    "StoreError",
    "Transport",
    "hookimpl",
    "open_client",
    "open_node",
]
__version__ = "0.1.0"
