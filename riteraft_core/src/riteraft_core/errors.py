"""Every exception riteraft raises on purpose, by what the caller may do next."""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "Busy",
    "CommandRejected",
    "ConfigError",
    "ConsensusError",
    "LostAcknowledgedData",
    "NodeStopped",
    "NotApplied",
    "OutcomeUnknown",
    "PeerUnreachable",
    "PluginError",
    "ProposalError",
    "ReadError",
    "Refused",
    "Removed",
    "RequestRefused",
    "RiteraftError",
    "StorageError",
    "StoreError",
]


class RiteraftError(Exception):
    """The ancestor of every exception here."""


# --- what a caller of propose, read_barrier and leave meets ----------------------------------------------------------


class ProposalError(RiteraftError):
    """A command did not come back with an answer; the subclass says what may be done."""


class NotApplied(ProposalError):
    """The command never took effect and never will; it is safe to send it again."""


class Busy(NotApplied):
    """The node has as many commands or bytes in flight as it may; send the command again later."""


class OutcomeUnknown(ProposalError):
    """The command may or may not take effect (a timeout, a node that stopped): look before sending it again."""


class CommandRejected(ProposalError):
    """The Store said no, on every replica: sending the same command again gets the same answer.

    A Store raises it from `apply`; `detail` bytes reach the proposer on whichever node it asked.
    """

    def __init__(self, message: str = "", detail: bytes = b"") -> None:
        """Take a text for people and bytes for programs; both are replicated, so keep them the same on all nodes."""
        super().__init__(message)
        self.message = message
        self.detail = detail


class ReadError(RiteraftError):
    """A read could not be proved fresh in time; nothing was changed, it is safe to ask again."""


class RequestRefused(RiteraftError):
    """A node will not do what a client or admin asked for, now or later; the text says why."""


class NodeStopped(RiteraftError):
    """The node is no longer running; use another one, or start it again."""


# --- what ends a node ------------------------------------------------------------------------------------------------


class StorageError(RiteraftError):
    """The log storage failed or found something it cannot trust; the node stops at the first one, without a retry."""


class ConsensusError(RiteraftError):
    """The consensus engine panicked or was misused; that node stops, the process does not."""


class StoreError(RiteraftError):
    """The Store raised something other than `CommandRejected`: its state may differ from its peers', the node stops."""


class Removed(RiteraftError):
    """This node was removed from its cluster; its folder may not be used again."""


class LostAcknowledgedData(RiteraftError):
    """This node's disk lost entries it had acknowledged: remove it from the cluster and join with an empty folder."""

    def __init__(self, what: str) -> None:
        """Take how it was found out."""
        super().__init__(
            f"{what}: this node's folder lost what it had acknowledged, or is an old copy; remove this node from its "
            f"cluster and join again with an empty folder"
        )


# --- what is wrong before anything runs ------------------------------------------------------------------------------


class ConfigError(RiteraftError):
    """The config cannot be used; the text names the field and the cure."""


class PluginError(RiteraftError):
    """A plugin is missing, broken, or two of one name are installed; the text names the distributions and the cure."""


# --- at the seams ----------------------------------------------------------------------------------------------------


class Refused(RiteraftError):
    """The engine did not take a proposal, a conf change, a read or a transfer; nothing happened.

    `reason` is one of `not_leader`, `transferring`, `full`, `pending_conf_change`, `joint`, `no_commit_in_term`,
    `unknown_node`, `learner`, `is_leader`, `removes_leader`, `last_voter`, `removed`, `installing`.
    """

    def __init__(self, reason: str) -> None:
        """Take the reason's name."""
        super().__init__(reason)
        self.reason = reason


class AuthenticationError(RiteraftError):
    """The other side could not prove that it is whom it must be; the text holds nothing secret. End the connection."""


class PeerUnreachable(RiteraftError):
    """A transport could not deliver a request or a snapshot; it may or may not have arrived."""

    def __init__(self, peer: object, why: str) -> None:
        """Take the peer (a node id or an address) and what went wrong."""
        super().__init__(f"{peer}: {why}")
        self.peer = peer
        self.why = why
