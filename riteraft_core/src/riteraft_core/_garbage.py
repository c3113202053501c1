"""What Python's collector of cycles is told in a process that is all a node's."""

from __future__ import annotations

import gc

YOUNG = 10_000
"""Objects between two looks at the newest. A write makes some ten, which are all gone by the next look but for those of
the writes in flight, and leaves no cycles."""


def settle() -> None:
    """Call it once the node serves: what is here now stays, and would be looked through in vain again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
