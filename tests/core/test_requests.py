from __future__ import annotations

import tracemalloc
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._requests import (
    AskStatus,
    Directory,
    Forward,
    Join,
    Moved,
    Propose,
    Read,
    Remove,
    Reply,
    Request,
    Status,
    Who,
)
from riteraft_core.types import NodeStatus, Role

from riteraft_core import _requests

REQUESTS: list[Request] = [
    Forward(((b"context", b"data"), (b"", b""))),
    Forward(((b"context", b"data"),) * _requests.MAX_ENTRIES),
    Read(),
    Join("orders", b"d" * 16, "h:1", False),
    Remove(7),
    Who(),
    Moved(7, "h:1"),
    AskStatus(),
    Propose(b"command", 1.5),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    assert _requests.decode(_requests.encode(request_)) == request_


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_stranger_is_read_no_lists(request_: Request) -> None:
    raw = _requests.encode(request_)
    if isinstance(request_, Forward) and len(request_.entries) > 2:
        with pytest.raises(ValueError, match="16"):
            _requests.decode(raw, stranger=True)
    else:
        assert _requests.decode(raw, stranger=True) == request_


@pytest.mark.parametrize(
    "values",
    [
        (2, 2),
        (1,),
        (),
        (1, 99),
        (1, "read"),
        (1, 2, "more"),
        (1, 1, [[b"context", b"data"]]),
        (1, 9, [[[b"context"]]]),
        (1, 9, [[["context", b"data"]]]),
        (1, 9, [[[b"c", b"d"]] * 129]),
        (1, 9, [[[b"c", b"d"]] * 128] * 128 + [[[b"c", b"d"]]]),
        (1, 9, [1]),
        (1, 3, "orders", b"short", "h:1", True),
        (1, 3, "orders", b"d" * 16, "h" * 301, True),
        (1, 3, "orders", b"d" * 16, "h:1", 1),
        (1, 4, 0),
        (1, 4, 1 << 62),
        (1, 6, 0, "h:1"),
        (1, 6, 7, "h" * 301),
        (1, 7, 1),
        (1, 8, b"command"),
        (1, 8, b"command", 0.0),
        (1, 8, b"command", float("nan")),
        (1, 8, b"command", 1e9),
        (1, 8, "command", 1.0),
        {1: 2},
        7,
    ],
)
def test_a_malformed_request_is_a_value_error(values: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        _requests.decode(msgpack.packb(values))


plain: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.binary(max_size=17) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=10,
)


@given(st.one_of(st.binary(), st.lists(plain, max_size=6).map(lambda values: msgpack.packb([1, *values]))))
def test_garbage_is_a_value_error_and_nothing_else(raw: bytes) -> None:
    readers = (_requests.read_position, _requests.read_index, _requests.read_admitted, _requests.read_directory)
    with suppress(ValueError):
        _requests.decode(raw)

    try:
        reply = _requests.decode_reply(raw)
    except ValueError:
        return

    _requests.read_leader(reply)
    _requests.read_text(reply)
    for read in readers:
        with suppress(ValueError):
            read(reply)


def test_many_empty_arrays_do_not_take_much_memory() -> None:
    with pytest.raises(ValueError, match="not msgpack"):
        _requests.decode(b"\xdd\x00\x10\x00\x00" + b"\x90" * (1 << 20))


def through(reply: Reply) -> Reply:
    return _requests.decode_reply(_requests.encode_reply(reply))


def test_replies_say_what_they_should() -> None:
    assert _requests.read_position(through(Reply(Status.OK, (7, 2)))) == (7, 2)
    assert _requests.read_index(through(Reply(Status.OK, (7,)))) == 7
    assert _requests.read_leader(through(Reply.not_leader(2, "h:1"))) == "h:1"
    assert _requests.read_leader(through(Reply.not_leader(0, None))) is None
    assert _requests.read_text(through(Reply.refused("no"))) == "no"
    assert through(Reply.retry("later")).status is Status.RETRY
    admitted = _requests.read_admitted(through(Reply(Status.OK, (b"c" * 16, 3, [[1, "h:1"]]))))
    assert (admitted.cluster_id, admitted.node_id, admitted.addresses) == (b"c" * 16, 3, {1: "h:1"})
    directory = Directory(9, {1: "h:1"}, {2: "h:2"})
    assert _requests.read_directory(through(_requests.directory_reply(directory))) == directory


def test_a_status_arrives_as_it_was_sent() -> None:
    status = NodeStatus(
        1, "orders", "h:1", Role.LEADER, 3, 1, "h:1", 9, 9, 9, 0, (1, 2), (3,), {1: "h:1", 2: "h:2"}, {"retries": 4}
    )
    reply = _requests.decode_reply(_requests.encode_reply(_requests.status_reply(status)))
    assert _requests.read_status(reply) == status
    later = Reply(Status.OK, ([*reply.values[0], ["from a later release", 1]],))
    assert _requests.read_status(later) == status
    for values in ((), ([],), ([["node_id", 1]],), ("text",), (7,)):
        with pytest.raises(ValueError, match="malformed status"):
            _requests.read_status(Reply(Status.OK, values))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdc\x00\x80" * 300_000,  # arrays in arrays
        b"\x91" * (1 << 20),
        b"\xdc\x00\x80" + (b"\xdc\x00\x80" + b"\x90" * 128) * 8_000,
        (b"\xdc\x00\x80" + b"\xa2ab" * 127) * 2_700,  # texts, in arrays that do not end
        b"\xdd\xff\xff\xff\xff" + b"\x80" * (1 << 20),
        b"\x91\xdf\xff\xff\xff\xff" + b"\x80" * (1 << 20),
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
)
def test_s9_a_megabyte_of_msgpack_takes_no_more_than_a_few(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"not msgpack"):
            _requests.decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 1024 * 1024
