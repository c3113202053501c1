"""One node of PySyncObj, asked and answering like one of riteraft: in memory, no journal, acknowledged by callback.

It ticks in its own thread (`autoTick`, its default), which also runs the callbacks: a write begins in the callback of
the one before, on the same thread, so nothing is handed between threads while a load runs.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated

from .work import VALUE, Tally, key_of, used

COMPACTION_ENTRIES = 50_000
"""As many as riteraft has between two snapshots; PySyncObj's own 5,000 would have it pack its state twice as often."""
ROLES = ("follower", "candidate", "leader")


class KeyValueStore(SyncObj):  # type: ignore[misc] # it has no types
    """The least there can be behind a key and a value."""

    def __init__(self, address: str, partners: list[str], batch_seconds: float | None) -> None:
        if batch_seconds is None:
            # A write leaves at once, and so does the news of its commit.
            pace: dict[str, Any] = {"appendEntriesUseBatch": False}
        else:
            pace = {"appendEntriesPeriod": batch_seconds, "autoTickPeriod": batch_seconds}

        super().__init__(address, partners, SyncObjConf(logCompactionMinEntries=COMPACTION_ENTRIES, **pace))
        self._values: dict[bytes, bytes] = {}

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: bytes, value: bytes) -> None:
        self._values[key] = value


class Load:
    """So many writes in flight: whenever one is acknowledged, the next begins."""

    def __init__(self, store: KeyValueStore, tally: Tally, value: bytes) -> None:
        self.tally = tally
        self._store = store
        self._value = value
        self._in_flight = 0
        self._ended = threading.Event()

    def begin(self, in_flight: int) -> None:
        """Begin the first writes; the rest follows by itself."""
        self._in_flight = in_flight
        for _ in range(in_flight):
            self._write()

    def end(self) -> None:
        """Let no further write begin, and wait for those in flight."""
        self.tally.stop()
        self._ended.wait()

    def _write(self) -> None:
        number = self.tally.take()
        if number is None:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._ended.set()
        else:
            self._store.put(key_of(number), self._value, callback=partial(self._answered, time.monotonic()))

    def _answered(self, began: float, _: object, error: int) -> None:
        if error == FAIL_REASON.SUCCESS:
            self.tally.note(began)
        else:
            self.tally.failed += 1

        self._write()


def status(store: KeyValueStore) -> dict[str, Any]:
    view = store.getStatus()
    return {
        "role": ROLES[view["state"]],
        "term": view["raft_term"],
        "connected": sum(value == 2 for name, value in view.items() if name.startswith("partner_node_status_server_")),
        "leader": str(view["leader"]),
        "applied": view["last_applied"],
        **used(),
    }


def main(settings: dict[str, Any]) -> None:
    store = KeyValueStore(settings["address"], settings["partners"], settings["batch_seconds"])
    load: Load | None = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request["do"]
        if do == "status":
            answer = status(store)
        elif do == "begin":
            load = Load(store, Tally(request["writes"]), VALUE)
            load.begin(request["in_flight"])
            answer = {}
        else:
            assert load is not None
            if do == "end":
                load.end()

            answer = load.tally.read()

        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    store.destroy()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
