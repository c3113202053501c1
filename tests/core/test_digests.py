"""Digests of the Store: who is told by whom that its state is another one."""

from __future__ import annotations

import pytest
from riteraft_core._digests import KEPT, Digests
from riteraft_core._envelope import Kind
from riteraft_core.errors import StoreError

from riteraft_core import _envelope

VOTERS = (1, 2, 3)


def test_a_node_that_differs_from_most_voters_stops_and_names_index_and_digests() -> None:
    digests = Digests(100, 0)
    digests.take(200, b"\x0a")
    assert digests.hear(1, VOTERS, 2, 200, b"\x0b") is None
    with pytest.raises(StoreError) as stopped:
        digests.hear(1, VOTERS, 3, 200, b"\x0b")

    assert "log index 200 has digest 0a here and 0b on most of the voters (nodes 2, 3)" in str(stopped.value)


def test_those_who_are_most_go_on() -> None:
    digests = Digests(100, 0)
    digests.take(200, b"a")
    for node_id, digest in ((1, b"a"), (3, b"b"), (2, b"a")):
        assert digests.hear(1, VOTERS, node_id, 200, digest) is None


def test_a_learner_compares_itself_and_is_not_counted() -> None:
    digests = Digests(100, 0)
    digests.take(200, b"b")
    assert digests.hear(4, VOTERS, 4, 200, b"b") is None
    assert digests.hear(4, VOTERS, 1, 200, b"a") is None
    with pytest.raises(StoreError):
        digests.hear(4, VOTERS, 2, 200, b"a")


def test_without_a_majority_nobody_stops_and_everybody_is_told() -> None:
    digests = Digests(100, 0)
    digests.take(100, b"\x01")
    assert digests.hear(1, (1, 2), 1, 100, b"\x01") is None
    note = digests.hear(1, (1, 2), 2, 100, b"\x02")
    assert note is not None
    assert "no state has a majority: node 1 has 01, node 2 has 02" in note


def test_what_is_replayed_or_jumped_over_is_not_compared() -> None:
    digests = Digests(100, 250)
    assert not digests.due(200)
    assert not digests.due(299)
    assert digests.due(300)
    digests.skip(300)
    assert not digests.due(300)
    assert digests.due(400)
    # The others' verdict on an index at which we have no digest says nothing about us.
    for node_id in (2, 3):
        assert digests.hear(1, VOTERS, node_id, 200, b"x") is None

    assert not Digests(0, 0).due(100)


def test_a_digest_is_told_until_it_stands_in_the_log() -> None:
    digests = Digests(100, 0)
    digests.take(100, b"a")
    digests.hear(1, VOTERS, 2, 100, b"a")
    assert digests.unreported == (100, b"a")
    digests.take(200, b"b")
    digests.hear(1, VOTERS, 1, 100, b"a")
    assert digests.unreported == (200, b"b")
    digests.hear(1, VOTERS, 1, 200, b"b")
    assert digests.unreported is None


def test_only_the_newest_digests_are_kept() -> None:
    digests = Digests(1, 0)
    for index in range(1, 20):
        digests.take(index, b"a")
        digests.hear(1, VOTERS, 2, index, b"a")

    assert len(digests._own) == KEPT
    assert len(digests._heard) <= KEPT


def test_a_digest_entry_comes_back_and_a_malformed_one_is_known() -> None:
    data = _envelope.pack_digest(3, 700, b"d" * 64)
    context = _envelope.context(Kind.DIGEST)
    assert _envelope.read_digest(data) == (3, 700, b"d" * 64)
    assert _envelope.is_valid(Kind.DIGEST, context, data)
    for bad in (
        _envelope.pack_digest(3, 700, b"d" * 65),
        _envelope.pack_digest(0, 700, b"d"),
        _envelope.pack_digest(3, 0, b"d"),
        _envelope.pack_digest(3, 1 << 62, b"d"),
        _envelope.pack_open_session(3, b"d"),
        b"",
    ):
        assert not _envelope.is_valid(Kind.DIGEST, context, bad)
