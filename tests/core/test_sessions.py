from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._sessions import Admission, Rejection, Sessions

APPLY, DUPLICATE, STALE, EXPIRED = Admission.APPLY, Admission.DUPLICATE, Admission.STALE, Admission.EXPIRED


def opened() -> Sessions:
    """Return a table with session 5 of node 1."""
    sessions = Sessions()
    sessions.open(5, 1, b"a life")
    return sessions


def applied(sessions: Sessions, sequence: int, answer: bytes | Rejection = b"done", low: int = 0) -> None:
    assert sessions.admit(5, sequence, low) is APPLY
    sessions.complete([(5, sequence)], [answer])


def test_a_command_is_applied_once() -> None:
    sessions = opened()
    applied(sessions, 1, b"one")
    assert sessions.admit(5, 1, 0) is DUPLICATE
    assert sessions.answer(5, 1) == b"one"


def test_an_empty_answer_is_an_answer() -> None:
    sessions = opened()
    applied(sessions, 1, b"")
    assert sessions.answer(5, 1) == b""


def test_a_rejection_is_kept_like_an_answer() -> None:
    sessions = opened()
    applied(sessions, 1, Rejection("no", b"why"))
    assert sessions.admit(5, 1, 0) is DUPLICATE
    assert sessions.answer(5, 1) == Rejection("no", b"why")


def test_a_pipelined_six_may_come_before_a_retried_five() -> None:
    # "The highest sequence seen" would take 5 for a duplicate, and its proposer would wait for ever.
    sessions = opened()
    applied(sessions, 6)
    applied(sessions, 5)


def test_an_unknown_session_has_expired() -> None:
    assert Sessions().admit(5, 1, 0) is EXPIRED


def test_below_the_low_nothing_is_applied_or_kept() -> None:
    sessions = opened()
    for sequence in range(1, 5):
        applied(sessions, sequence)

    applied(sessions, 5, low=4)
    assert [sessions.answer(5, sequence) for sequence in range(1, 6)] == [None, None, None, b"done", b"done"]
    assert sessions.admit(5, 3, 4) is STALE
    assert sessions.admit(5, 2, 0) is STALE  # a late copy brings an older low
    assert len(sessions) == 2


def test_a_low_far_ahead_costs_no_time() -> None:
    sessions = opened()
    applied(sessions, 1)
    assert sessions.admit(5, 2, (1 << 64) - 1) is STALE
    assert len(sessions) == 0


def test_a_repeated_nonce_gets_the_session_it_has() -> None:
    sessions = opened()
    applied(sessions, 1)
    assert sessions.open(9, 1, b"a life") == 5
    assert 9 not in sessions
    assert sessions.admit(5, 1, 0) is DUPLICATE


def test_a_new_session_closes_the_nodes_older_one() -> None:
    sessions = opened()
    sessions.open(6, 2, b"another node")
    assert sessions.open(9, 1, b"the next life") == 9
    assert 5 not in sessions
    assert 6 in sessions
    assert sessions.admit(5, 1, 0) is EXPIRED
    assert sessions.find(1, b"the next life") == 9
    assert sessions.find(1, b"a life") is None


def test_a_node_that_leaves_loses_its_sessions_only() -> None:
    sessions = opened()
    sessions.open(6, 2, b"another node")
    sessions.close_node(1)
    assert 5 not in sessions
    assert 6 in sessions


def test_an_answer_to_a_session_that_was_closed_meanwhile_is_dropped() -> None:
    sessions = opened()
    assert sessions.admit(5, 1, 0) is APPLY
    sessions.close_node(1)
    sessions.complete([(5, 1)], [b"late"])
    assert sessions.answer(5, 1) is None


answers = st.one_of(st.binary(max_size=5), st.builds(Rejection, st.text(max_size=5), st.binary(max_size=5)))
commands = st.tuples(st.just("command"), st.integers(1, 4), st.integers(0, 8), st.integers(0, 8), answers)
openings = st.tuples(st.just("open"), st.integers(1, 3), st.binary(max_size=1))
leavings = st.tuples(st.just("leave"), st.integers(1, 3))


@given(st.lists(st.one_of(commands, openings, leavings), max_size=40))
def test_a_table_survives_its_snapshot(events: list[tuple[object, ...]]) -> None:
    # Cut the log anywhere: going on from the snapshot decides as going on without it does.
    whole, copied = Sessions(), Sessions()
    for index, event in enumerate(events, start=1):
        copied = Sessions.from_plain(msgpack.unpackb(msgpack.packb(copied.to_plain())))
        decisions = [_take(table, index, event) for table in (whole, copied)]
        assert decisions[0] == decisions[1]
        assert whole.to_plain() == copied.to_plain()


def _take(sessions: Sessions, index: int, event: tuple[object, ...]) -> object:
    match event:
        case ("open", int() as node, bytes() as nonce):
            return sessions.open(index, node, nonce)
        case ("leave", int() as node):
            sessions.close_node(node)
            return None
        case (_, int() as session, int() as sequence, int() as low, (bytes() | Rejection()) as answer):
            admission = sessions.admit(session, sequence, low)
            if admission is APPLY:
                sessions.complete([(session, sequence)], [answer])

            return admission

    raise AssertionError(event)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=60))
def test_no_sequence_is_ever_applied_twice(copies: list[tuple[int, int]]) -> None:
    sessions = opened()
    done = [sequence for sequence, low in copies if sessions.admit(5, sequence, low) is APPLY]
    assert len(done) == len(set(done))


headers = st.tuples(st.integers(0, 7), st.integers(0, 8), st.integers(0, 8))


@given(st.lists(headers, max_size=40), st.integers(0, 40))
def test_many_commands_are_decided_as_one_after_the_other(asked: list[tuple[int, int, int]], split: int) -> None:
    single, many = opened(), opened()
    for table in (single, many):
        table.open(6, 2, b"another")

    for part in (asked[:split], asked[split:]):
        decided = [single.admit(*header) for header in part]
        names = [b"%d" % n for n in range(len(part))]
        admitted, ids, repeats = many.admit_all([(1, 1, *header) for header in part], names)
        to_apply = [n for n, admission in enumerate(decided) if admission is APPLY]
        assert admitted == [names[n] for n in to_apply]
        assert ids == [part[n][:2] for n in to_apply]
        assert repeats == [part[n][:2] for n, admission in enumerate(decided) if admission is DUPLICATE]
        assert single.to_plain() == many.to_plain()
