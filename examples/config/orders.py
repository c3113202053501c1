"""A stock that cannot be sold twice: the Store that n1.toml names."""

from __future__ import annotations

import json

from riteraft_core import CommandRejected


class OrderStore:
    """Commands are JSON, `["stock", item, count]` or `["order", item, count]`; the answer is what is left."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def apply(self, command: bytes) -> bytes:
        verb, item, count = read(command)
        left = self.left.get(item, 0) + (count if verb == "stock" else -count)
        if left < 0:
            # Every node comes to the same verdict, and the one who asked is told it.
            raise CommandRejected(f"there are {self.left.get(item, 0)} of {item} left, not {count}")

        self.left[item] = left
        return str(left).encode()

    def snapshot(self) -> bytes:
        return json.dumps(self.left).encode()

    def restore(self, snapshot: bytes) -> None:
        self.left = json.loads(snapshot)


def read(command: bytes) -> tuple[str, str, int]:
    try:
        verb, item, count = json.loads(command)
    except (ValueError, TypeError):
        verb = item = count = None

    # What cannot be read is refused like a wrong order: any other exception would stop every node.
    if verb not in ("stock", "order") or not isinstance(item, str) or type(count) is not int or count < 1:
        raise CommandRejected('a command is ["stock" or "order", item, count]')

    return verb, item, count
