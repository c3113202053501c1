"""Client sessions: why a command that was sent twice is applied once (Raft thesis §6.3).

The table is part of the replicated state: it changes only by log entries, in their order, on every node alike, and
travels in snapshots. Nothing here may depend on a clock, a setting or a node.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Rejection:
    """A Store's `CommandRejected`, as it is kept and replicated."""

    message: str
    detail: bytes


Answer: TypeAlias = bytes | Rejection


class Admission(enum.Enum):
    """What is to be done with one command of the log."""

    APPLY = "apply"
    DUPLICATE = "duplicate"
    """It was applied before: its stored answer stands."""
    STALE = "stale"
    """Its proposer no longer waits for it: applied before, or given up."""
    EXPIRED = "expired"
    """Its session is gone: the Store must not see it."""


@dataclass(slots=True)
class _Session:
    node_id: int
    nonce: bytes
    low: int = 0
    answers: dict[int, Answer | None] = field(default_factory=dict)
    """Sequence → answer, None between `admit` and `complete`; holds every applied sequence ≥ `low`."""


class Sessions:
    """All sessions by id; a session's id is the index of the entry that opened it."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    def open(self, index: int, node_id: int, nonce: bytes) -> int:
        """Open a session for a node, closing its older one; a repeated nonce gets the session it already has."""
        for session_id, session in list(self._sessions.items()):
            if session.node_id == node_id:
                if session.nonce == nonce:
                    return session_id

                # A node opens a session once a start, so whoever waited for the older one's answers is dead.
                del self._sessions[session_id]

        self._sessions[index] = _Session(node_id, nonce)
        return index

    def close_node(self, node_id: int) -> None:
        """Close the sessions of a node that left the cluster."""
        for session_id in [key for key, session in self._sessions.items() if session.node_id == node_id]:
            del self._sessions[session_id]

    def admit(self, session_id: int, sequence: int, low: int) -> Admission:
        """Decide on the next command of the log; for APPLY the caller must `complete` it."""
        session = self._sessions.get(session_id)
        if session is None:
            return Admission.EXPIRED

        answers = session.answers
        if low > session.low:
            # Whichever is shorter: `low` comes from the log and may be any number.
            few = low - session.low <= len(answers)
            for done in range(session.low, low) if few else [key for key in answers if key < low]:
                answers.pop(done, None)

            session.low = low

        if sequence < session.low:
            return Admission.STALE

        if sequence in answers:
            return Admission.DUPLICATE

        answers[sequence] = None
        return Admission.APPLY

    def admit_all(
        self, headers: Iterable[tuple[int, int, int, int, int]], commands: Sequence[bytes]
    ) -> tuple[list[bytes], list[tuple[int, int]], list[tuple[int, int]]]:
        """Decide on many commands as `admit` does on one after the other; `headers` are the fields of their contexts.

        Return those to apply, the id of each of them, and the ids of the duplicates.
        """
        admitted: list[bytes] = []
        ids: list[tuple[int, int]] = []
        repeats: list[tuple[int, int]] = []
        current, lowest = -1, 0
        answers: dict[int, Answer | None] = {}
        for (_, _, session_id, sequence, low), command in zip(headers, commands, strict=True):
            if session_id == current and low <= lowest <= sequence and sequence not in answers:
                answers[sequence] = None  # `admit`, where it has nothing else to do: a call less for most commands
            else:
                admission = self.admit(session_id, sequence, low)
                session = self._sessions.get(session_id)
                if session is not None:
                    current, lowest, answers = session_id, session.low, session.answers

                if admission is Admission.DUPLICATE:
                    repeats.append((session_id, sequence))

                if admission is not Admission.APPLY:
                    continue

            admitted.append(command)
            ids.append((session_id, sequence))

        return admitted, ids, repeats

    def complete(self, ids: Sequence[tuple[int, int]], answers: Sequence[Answer]) -> None:
        """Keep the Store's answers to commands that were admitted, until their proposers no longer need them."""
        current = 0
        kept: dict[int, Answer | None] = {}
        for (session_id, sequence), answer in zip(ids, answers, strict=True):
            if session_id != current:  # mostly one session's commands come together
                session = self._sessions.get(session_id)
                current, kept = session_id, {} if session is None else session.answers

            if sequence in kept:
                kept[sequence] = answer

    def answer(self, session_id: int, sequence: int) -> Answer | None:
        """Return the kept answer, or None."""
        session = self._sessions.get(session_id)
        return session.answers.get(sequence) if session is not None else None

    def find(self, node_id: int, nonce: bytes) -> int | None:
        """Return the id of the session that this nonce opened, or None."""
        for session_id, session in self._sessions.items():
            if session.node_id == node_id and session.nonce == nonce:
                return session_id

        return None

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._sessions

    def __len__(self) -> int:
        """Return how many answers are kept, over all sessions."""
        return sum(len(session.answers) for session in self._sessions.values())

    def to_plain(self) -> list[Any]:
        """Return the table for a snapshot, in an order that is the same on every node."""
        return [
            [
                session_id,
                session.node_id,
                session.nonce,
                session.low,
                [[sequence, _answer_to_plain(answer)] for sequence, answer in sorted(session.answers.items())],
            ]
            for session_id, session in sorted(self._sessions.items())
        ]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> Sessions:
        """Take `to_plain` back."""
        table = cls()
        for session_id, node_id, nonce, low, answers in plain:
            table._sessions[session_id] = _Session(
                node_id, nonce, low, {sequence: _answer_from_plain(answer) for sequence, answer in answers}
            )

        return table


def _answer_to_plain(answer: Answer | None) -> Any:
    if isinstance(answer, Rejection):
        return [answer.message, answer.detail]

    return answer


def _answer_from_plain(plain: Any) -> Answer | None:
    if isinstance(plain, list):
        message, detail = plain
        return Rejection(message, detail)

    answer: bytes | None = plain
    return answer
