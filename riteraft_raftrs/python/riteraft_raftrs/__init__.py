"""raft-rs 0.7.0's RawNode, batch-wise: bytes and plain values in, bytes and plain values out."""

from __future__ import annotations

from riteraft_raftrs._native import LostAcknowledgedData, RaftPanic, RaftRefused, RawNode, Ready, Status

__all__ = ["LostAcknowledgedData", "RaftPanic", "RaftRefused", "RawNode", "Ready", "Status"]
