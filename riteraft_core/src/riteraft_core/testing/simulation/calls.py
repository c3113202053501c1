"""What a simulated program asks of its node: one write or one read, and how it ended."""

from __future__ import annotations

from collections.abc import Callable

from ..._sessions import Answer
from ...errors import RiteraftError


class Write:
    """A command that was proposed."""

    def __init__(self, node: int, command: bytes) -> None:
        self.node = node
        self.command = command
        self.outcome: Answer | RiteraftError | None = None
        self.lost = False
        """Its program died with the node before there was an outcome."""

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.lost or self.outcome is not None

    @property
    def acknowledged(self) -> bool:
        """Whether the Store's answer came back (a refusal of the Store's is one)."""
        return self.outcome is not None and not isinstance(self.outcome, RiteraftError)


class Read:
    """A read barrier, and how many commands the Store held behind it."""

    def __init__(self, node: int, floor: int) -> None:
        self.node = node
        self.floor = floor
        self.seen: int | None = None
        self.failed = False
        self.lost = False
        """Its program died with the node before it was answered."""

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.lost or self.failed or self.answered

    @property
    def answered(self) -> bool:
        """Whether the barrier was passed."""
        return self.seen is not None


class WakeUp:
    """A `Waiter` that calls back."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def done(self) -> bool:
        """Return False: it may be called at any time."""
        return False

    def set_result(self, _: None, /) -> None:
        """Call back."""
        self._call()
