"""The judge itself: each kind of wrong history is found, and a right one is not."""

from __future__ import annotations

import pytest

from .history import Operation, faults_in


def append(value: str, began: float, ended: float, **rest: bool | int) -> Operation:
    return Operation("k", began, value=value, ended=ended, acked=True, **rest)  # type: ignore[arg-type] # mixed keywords


def read(seen: list[str], began: float, ended: float) -> Operation:
    return Operation("k", began, seen=seen, ended=ended, acked=True)


def unknown(value: str, began: float) -> Operation:
    return Operation("k", began, value=value)


def refused(value: str, began: float, ended: float) -> Operation:
    return Operation("k", began, value=value, ended=ended, refused=True)


def test_a_linearizable_history_has_no_fault() -> None:
    history = [
        append("a", 0, 2),
        append("b", 1, 3),  # beside a, so either may be first
        read(["b"], 1, 3),
        unknown("c", 4),  # took effect long after
        refused("d", 4, 5),
        read(["b", "a"], 5, 6),
        read(["b", "a", "c"], 7, 8),
    ]
    assert faults_in(history, {"k": ["b", "a", "c"]}) == []
    assert faults_in(history[:-1], {"k": ["b", "a"]}) == [], "an unknown one need not take effect"


@pytest.mark.parametrize(
    ("history", "final", "fault"),
    [
        ([append("a", 0, 1)], [], "lost"),
        ([append("a", 0, 1)], ["a", "a"], "applied twice"),
        ([refused("a", 0, 1)], ["a"], "told it never would be"),
        ([append("a", 0, 1)], ["a", "z"], "never proposed"),
        ([append("a", 0, 1, length=2)], ["a"], "was answered 2"),
        ([append("a", 0, 1), append("b", 2, 3)], ["b", "a"], "before what had ended"),
        ([append("a", 0, 1), read([], 2, 3)], ["a"], "stale read"),
        ([unknown("a", 0), read(["a"], 1, 2), read([], 3, 4)], ["a"], "stale read"),
        ([unknown("a", 0), read(["a"], 1, 2)], [], "no prefix"),
        ([append("a", 0, 1), read(["a", "b"], 0, 3), unknown("b", 4)], ["a", "b"], "before what had ended"),
    ],
)
def test_each_kind_of_fault_is_found(history: list[Operation], final: list[str], fault: str) -> None:
    found = faults_in(history, {"k": final})
    assert len(found) == 1
    assert fault in found[0]
