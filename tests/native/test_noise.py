"""Bytes at random, and messages that are nearly right: no exception may come of them, only reasons."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from riteraft_raftrs import LostAcknowledgedData, RaftRefused, RawNode

from .cluster import Disk, drain, follower, leader
from .eraftpb import ConfState, Entry, Kind, Message, Snapshot, conf_change, conf_change_v2

SECONDS = 2.0
KINDS = (
    Kind.APPEND,
    Kind.APPEND,
    Kind.APPEND_RESPONSE,
    Kind.APPEND_RESPONSE,
    Kind.HEARTBEAT,
    Kind.HEARTBEAT_RESPONSE,
    Kind.SNAPSHOT,
    Kind.VOTE,
    Kind.VOTE_RESPONSE,
    Kind.PRE_VOTE,
    Kind.PRE_VOTE_RESPONSE,
    Kind.TIMEOUT_NOW,
    Kind.READ_INDEX,
    Kind.TRANSFER_LEADER,
)
NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 100, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)


def candidate() -> RawNode:
    node = Disk.founded([1, 2, 3]).open(1)
    node.campaign()
    return node


def joint() -> RawNode:
    return Disk((1, 0, 1), (1, 1), (1, 1, ([1, 2, 4], [5], [1, 2, 3], [3], True))).open(1)


def sole_voter() -> RawNode:
    node = Disk.founded([1], [2, 3]).open(1)
    node.campaign()
    return node


def joiner() -> RawNode:
    return Disk().open(4)


def ids(draw: random.Random) -> list[int]:
    return draw.sample(range(1, 6), draw.randrange(4))


def entry(draw: random.Random, index: int, term: int) -> Entry:
    kind = draw.choice((0, 0, 0, 1, 2))
    if kind == 0:
        return Entry(index, term, draw.randbytes(3))
    changes = [(draw.randrange(3), draw.randrange(1, 6)) for _ in range(draw.choice((1, 1, 1, 2)))]
    return Entry(index, term, conf_change(*changes[0]) if kind == 1 else conf_change_v2(*changes), b"", kind)


def plausible(draw: random.Random, node: RawNode) -> Message:
    """A message that a peer of the node might send, if not at this moment."""
    status = node.status()
    kind = draw.choice(KINDS)
    last = status.last_index
    term = status.term + draw.choice((0, 0, 0, 0, 0, 0, 0, 0, 1))
    peers = [id for id in range(1, 6) if id != status.node_id]
    plain = Message(kind, status.node_id, draw.choice(peers[:2] if draw.random() < 0.9 else peers), term)
    if kind in {Kind.APPEND, Kind.HEARTBEAT, Kind.SNAPSHOT, Kind.TIMEOUT_NOW} and status.leader and draw.random() < 0.8:
        plain = replace(plain, sender=status.leader)
    match kind:
        case Kind.APPEND:
            index = max(0, last - draw.choice((0, 0, 0, 1, 2)))
            log_term = draw.choice((1, 2, status.term)) if index else 0
            entries = [entry(draw, index + step, term) for step in range(1, draw.choice((1, 2, 3)))]
            commit = draw.choice((0, index, index + len(entries), index + 5))
            return replace(plain, index=index, log_term=min(log_term, term), entries=entries, commit=commit)
        case Kind.HEARTBEAT:
            return replace(plain, commit=draw.choice((0, status.commit, last)), context=draw.choice((b"", b"theirs")))
        case Kind.SNAPSHOT:
            conf_state = ConfState(ids(draw), ids(draw), ids(draw), [], draw.random() < 0.3)
            if draw.random() < 0.5:
                conf_state = ConfState(sorted({status.node_id, *ids(draw)}))
            return replace(plain, snapshot=Snapshot(last + draw.randrange(4), draw.choice((1, term)), conf_state))
        case Kind.APPEND_RESPONSE:
            reject = draw.random() < 0.3
            hint = draw.randrange(last + 1) if reject else 0
            index = draw.choice((last, draw.randrange(last + 1)))
            return replace(plain, index=index, reject=reject, reject_hint=hint, log_term=draw.choice((0, 1, term)))
        case Kind.HEARTBEAT_RESPONSE:
            return replace(plain, commit=status.commit, context=draw.choice((b"", b"round")))
        case Kind.VOTE | Kind.PRE_VOTE:
            transfer = b"CampaignTransfer" if draw.random() < 0.3 else b""
            ahead = replace(plain, term=term + draw.choice((0, 1)), index=last + draw.choice((0, 0, 1)))
            return replace(ahead, log_term=draw.choice((1, term)), commit=last, commit_term=term, context=transfer)
        case Kind.PRE_VOTE_RESPONSE:
            return replace(plain, term=status.term + 1, reject=draw.random() < 0.2)
        case Kind.VOTE_RESPONSE:
            return replace(plain, term=status.term, reject=draw.random() < 0.2)
        case _:
            return plain


def spoil(draw: random.Random, message: Message) -> Message:
    """Set a field to a number from the edges."""
    number = draw.choice(NUMBERS)
    spoilt = [
        replace(message, kind=number),
        replace(message, to=number),
        replace(message, sender=number),
        replace(message, term=number),
        replace(message, log_term=number),
        replace(message, index=number),
        replace(message, commit=number),
        replace(message, commit_term=number),
        replace(message, request_snapshot=number),
        replace(message, reject_hint=number),
    ]
    return draw.choice(spoilt)


def garble(draw: random.Random, raw: bytes) -> bytes:
    """Change a few bytes, or cut some off."""
    noisy = bytearray(raw)
    for _ in range(draw.randrange(3)):
        noisy[draw.randrange(len(noisy))] = draw.randrange(256)
    return bytes(noisy[: draw.randrange(len(noisy) + 1)])


def story(draw: random.Random, node: RawNode) -> Iterator[str]:
    """Throw noise at a node that goes on with its own work; yield the reasons."""
    newest = 0
    for _ in range(draw.randrange(1, 400)):
        what = draw.random()
        if what < 0.6:
            message = plausible(draw, node)
            if draw.random() < 0.1:
                message = spoil(draw, message)
            raw = message.encode()
            if draw.random() < 0.03:
                raw = garble(draw, raw)
            if message.kind == Kind.SNAPSHOT:
                yield node.step_snapshot(message.sender, raw) or "taken"
            else:
                yield from node.step_many(message.sender, [raw])
        elif what < 0.75:
            node.tick()
        elif what < 0.88:
            ready = node.ready()
            newest = newest if ready is None else ready.number
        elif what < 0.96:
            node.persisted(newest)
        elif what < 0.97:
            node.campaign()
        else:
            own_work(draw, node)


def own_work(draw: random.Random, node: RawNode) -> None:
    calls: list[Callable[[], object]] = [
        lambda: node.propose_many([(b"", b"x")]),
        lambda: node.propose_conf_change(b"", [("add_learner", draw.randrange(1, 6))]),
        lambda: node.propose_conf_change(b"", [("remove", draw.randrange(1, 6)), ("add_voter", 5)]),
        lambda: node.read_index(b"round"),
        lambda: node.transfer_leader(draw.randrange(1, 6)),
        lambda: node.report_unreachable(draw.randrange(1, 6)),
        lambda: node.report_snapshot(draw.randrange(1, 6), draw.random() < 0.5),
        lambda: node.snapshot_made(node.status().commit, node.status().term, node.status().conf_state),
        lambda: node.compact(node.status().commit),
    ]
    try:
        draw.choice(calls)()
    except RaftRefused as refused:
        if refused.args == ("removed",):
            raise
    except ValueError:
        pass  # a snapshot of what was not handed out, a compaction without one


@pytest.mark.parametrize("make", [follower, leader, candidate, joint, sole_voter, joiner])
def test_gate_turns_noise_into_reasons(make: Callable[[], RawNode]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 (shown if the test fails)
    until = time.monotonic() + SECONDS / 6
    stories = 0
    reasons: set[str] = set()
    while time.monotonic() < until:
        draw = random.Random(seed + stories)
        node = make()
        drain(node)
        try:
            reasons.update(story(draw, node))
        except RaftRefused as refused:
            # The noise committed our own removal: that is what it said.
            if refused.args != ("removed",):
                raise
        except LostAcknowledgedData:
            pass
        except Exception as exc:
            raise AssertionError(f"seed {seed}, story {stories}") from exc
        stories += 1
    assert len(reasons) > 10


def test_gate_turns_random_bytes_into_reasons() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 (shown if the test fails)
    draw = random.Random(seed)
    node = follower()
    batch = [draw.randbytes(draw.randrange(64)) for _ in range(20_000)]
    assert len(node.step_many(1, batch)) == len(batch)
    drain(node)
    assert node.status().term == 2
