"""msgpack from others, bounded by how much it may become: a byte of it can stand for 64 bytes of memory."""

from __future__ import annotations

from typing import Any

import msgpack

MAX_ITEMS = 65_536
"""Items of all arrays of one message together."""


def unpack(raw: bytes, *, max_array_len: int, max_items: int = MAX_ITEMS) -> Any:
    """Return what `raw` holds: scalars, texts, bytes and arrays of at most `max_array_len`; no maps.

    :param max_items: items of all arrays together; an empty array counts as one.

    An array is counted once it is whole. Before that it holds memory too, and up to 1024 of them may be open, one in
    the other: so `max_array_len` is to be small where the sender is not trusted.

    :raises ValueError: it is none, or too much.
    """
    room = max_items

    def count(items: list[Any]) -> list[Any]:
        nonlocal room
        room -= len(items) or 1
        if room < 0:
            raise ValueError(f"more than {max_items} items")
        return items

    try:
        return msgpack.unpackb(
            raw, list_hook=count, max_array_len=max_array_len, max_map_len=0, max_ext_len=0, strict_map_key=True
        )
    except Exception as exc:  # msgpack raises several unrelated types for bytes that are not its own
        raise ValueError(f"not msgpack: {str(exc)[:100] or type(exc).__name__}") from exc
