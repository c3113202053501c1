"""Election timeouts that a seed decides (rule 24), the same as the default engine draws."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def draw(seed: int, node_id: int, term: int, campaigns: int, least: int, most: int) -> int:
    """Draw a timeout in `least..most` ticks.

    raft-rs redraws from the thread's random numbers at each change of role or term, which no simulation could repeat.
    The count of own campaigns is part of the draw: without it two nodes that tie once would tie for ever.
    """
    mixed = _mix(seed & _MASK)
    for part in (node_id, term, campaigns):
        mixed = _mix(mixed ^ part)

    return least + mixed % (most - least)


def _mix(value: int) -> int:
    """Return SplitMix64's step and finish: every bit of the input changes half of the output."""
    z = (value + 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
