from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._envelope import Kind
from riteraft_core.errors import ConsensusError

from riteraft_core import _envelope

numbers = st.integers(0, (1 << 64) - 1)


@given(numbers, numbers, numbers)
def test_a_command_says_who_sent_it(session: int, sequence: int, low: int) -> None:
    raw = _envelope.command_context(session, sequence, low)
    assert _envelope.read_command(raw) == (session, sequence, low)
    assert _envelope.read_kind(raw, 1) is Kind.COMMAND


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.COMMAND])
def test_another_entry_is_no_command(kind: Kind) -> None:
    assert _envelope.read_command(_envelope.context(kind)) is None
    assert _envelope.read_kind(_envelope.context(kind), 1) is kind


COMMANDS = st.builds(_envelope.command_context, numbers, numbers, numbers)
CONTEXTS = COMMANDS | st.binary(max_size=30) | st.binary(min_size=26, max_size=26)


@given(st.lists(COMMANDS, max_size=5) | st.lists(CONTEXTS, max_size=5))
def test_many_contexts_are_read_as_one_by_one_if_all_are_commands(raws: list[bytes]) -> None:
    one_by_one = [_envelope.read_command(raw) for raw in raws]
    together = _envelope.read_commands(raws)
    assert (None if together is None else [found[2:] for found in together]) == (
        None if None in one_by_one else one_by_one
    )


@pytest.mark.parametrize("at", [0, 1])
def test_one_of_another_version_or_kind_among_many_is_no_command(at: int) -> None:
    other = bytearray(_envelope.command_context(5, 6, 7))
    other[at] += 1
    assert _envelope.read_commands([_envelope.command_context(5, 6, 7), bytes(other)]) is None


def test_contexts_of_two_sizes_that_add_up_are_no_commands() -> None:
    raw = _envelope.command_context(5, 6, 7) + _envelope.command_context(5, 7, 7)
    assert _envelope.read_commands([raw[:25], raw[25:]]) is None


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x02\x01", b"\x01\x63", b"\x00\x00"])
def test_an_unknown_kind_or_version_stops_the_node(raw: bytes) -> None:
    # To skip an entry that others apply would be to diverge from them in silence.
    with pytest.raises(ConsensusError, match=r"log entry 7 .*upgrade"):
        _envelope.read_kind(raw, 7)


def test_a_command_of_a_newer_version_is_not_read_as_ours() -> None:
    raw = b"\x02" + _envelope.command_context(1, 2, 3)[1:]
    assert _envelope.read_command(raw) is None
    with pytest.raises(ConsensusError):
        _envelope.read_kind(raw, 7)


def test_a_conf_change_says_whom_it_drops() -> None:
    raw = _envelope.conf_change_context([("remove", 3), ("add_voter", 4), ("remove", 5)])
    assert _envelope.read_conf_change(raw, 1) == [3, 5]
    assert _envelope.read_conf_change(b"", 1) == []  # raft's own leave of a joint state


def test_the_other_entries_come_back_as_they_were() -> None:
    assert _envelope.read_open_session(_envelope.pack_open_session(3, b"nonce")) == (3, b"nonce")
    assert _envelope.read_allocate(*_envelope.allocate_entry(b"d" * 16, "h:1", True)) == (b"d" * 16, "h:1", True, "")
    named = _envelope.allocate_entry(b"d" * 16, "h:1", True, "n1")
    assert _envelope.read_allocate(*named) == (b"d" * 16, "h:1", True, "n1")
    assert _envelope.read_address(_envelope.pack_address(3, "h:1")) == (3, "h:1")
    assert _envelope.read_name(_envelope.pack_name(3, "n3")) == (3, "n3")


def test_an_entry_with_a_name_is_of_a_newer_version_than_one_without() -> None:
    # A release that does not know names must stop at the first, and can go on with the second.
    assert _envelope.allocate_entry(b"d" * 16, "h:1", True)[0] == bytes((1, Kind.ALLOCATE))
    context = _envelope.allocate_entry(b"d" * 16, "h:1", True, "n1")[0]
    assert context == bytes((2, Kind.ALLOCATE))
    assert _envelope.read_kind(context, 1) is Kind.ALLOCATE
    with pytest.raises(ConsensusError, match="upgrade this node"):
        _envelope.read_kind(bytes((2, Kind.ADDRESS)), 1)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Kind.OPEN_SESSION, _envelope.pack_open_session(3, b"nonce")),
        (Kind.ADDRESS, _envelope.pack_address(3, "h:1")),
        (Kind.NAME, _envelope.pack_name(3, "n3")),
    ],
)
def test_what_a_follower_sends_is_taken(kind: Kind, data: bytes) -> None:
    assert _envelope.is_valid(kind, _envelope.context(kind), data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Kind.OPEN_SESSION, b""),
        (Kind.OPEN_SESSION, _envelope.pack_open_session(0, b"nonce")),
        (Kind.OPEN_SESSION, _envelope.pack_open_session(1 << 63, b"nonce")),
        (Kind.OPEN_SESSION, _envelope.pack_open_session(3, bytes(65))),
        (Kind.ADDRESS, _envelope.pack_address(3, "h" * 301)),
        (Kind.ADDRESS, _envelope.pack_open_session(3, b"bytes")),
        (Kind.ALLOCATE, _envelope.allocate_entry(b"d" * 16, "h:1", True)[1]),
        (Kind.NAME, _envelope.pack_name(0, "n3")),
        (Kind.NAME, b""),
        (Kind.CONF_CHANGE, b""),
    ],
)
def test_what_would_stop_every_node_is_not_taken(kind: Kind, data: bytes) -> None:
    assert not _envelope.is_valid(kind, _envelope.context(kind), data)


@given(st.sampled_from(sorted(_envelope.FORWARDED_KINDS)), st.binary(max_size=40))
def test_garbage_is_refused_or_understood_by_every_replica(kind: Kind, data: bytes) -> None:
    read = {
        Kind.OPEN_SESSION: _envelope.read_open_session,
        Kind.ADDRESS: _envelope.read_address,
        Kind.NAME: _envelope.read_name,
    }
    if _envelope.is_valid(kind, _envelope.context(kind), data):
        read[kind](data)
