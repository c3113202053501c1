"""A consensus engine for tests of what stands around one: it does nothing by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from riteraft_core.errors import Refused
from riteraft_core.types import ConfState, EngineStatus, Ready


class ScriptedEngine:
    """A `Consensus` that hands out the Readys it was given, and notes what it is told."""

    def __init__(self, state: EngineStatus) -> None:
        self.readies: list[Ready] = []
        self.proposed: list[tuple[bytes, bytes]] = []
        self.changes: list[tuple[str, int]] = []
        self.told: list[tuple[Any, ...]] = []
        self.refuse: str | None = None
        self.removed = False
        self.next_index = 10
        self.state = state

    def _call(self, *what: Any) -> None:
        if self.removed:
            raise Refused("removed")

        if self.refuse is not None:
            raise Refused(self.refuse)

        self.told.append(what)

    def tick(self) -> None:
        self._call("tick")

    def campaign(self) -> None:
        self._call("campaign")

    def step(self, sender: int, messages: Sequence[bytes]) -> Sequence[str]:
        self._call("step", sender)
        return ["odd"] if b"odd" in messages else []

    def step_snapshot(self, sender: int, message: bytes, index: int, term: int) -> str | None:
        self._call("step_snapshot", sender, index, term)
        return None

    def propose(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        self._call("propose")
        index = self.next_index
        self.proposed += entries
        self.next_index += len(entries)
        return index, self.state.term

    def propose_conf_change(self, context: bytes, changes: Sequence[tuple[str, int]]) -> tuple[int, int]:
        self._call("propose_conf_change")
        self.changes += changes
        return self.next_index, self.state.term

    def read_index(self, context: bytes) -> None:
        self._call("read_index", context)

    def transfer_leader(self, to: int) -> None:
        self._call("transfer_leader", to)

    def announce_commit(self) -> None:
        self._call("announce_commit")

    def report_unreachable(self, peer: int) -> None:
        self._call("report_unreachable", peer)

    def report_snapshot(self, peer: int, ok: bool) -> None:
        self._call("report_snapshot", peer, ok)

    def ready(self) -> Ready | None:
        return self.readies.pop(0) if self.readies else None

    def persisted(self, number: int) -> None:
        self._call("persisted", number)

    def snapshot_made(self, index: int, term: int, conf_state: ConfState) -> None:
        self._call("snapshot_made", index, term)

    def compact(self, index: int) -> None:
        self._call("compact", index)

    def status(self) -> EngineStatus:
        if self.removed:
            raise Refused("removed")

        return self.state
